package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// onDisk is where temporary files are on a disk by the Filesystem Hierarchy
// Standard (section 5.15).
const onDisk = "/var/tmp"

// tmpdir gives the environment in which tests find temporary files on a disk:
// Debian 13 has /tmp in memory, where an EROFS image cannot be mounted from a
// file and a program's pages have nowhere else to be. Who has set TMPDIR is left
// alone.
func tmpdir(env []string) []string {
	var fs unix.Statfs_t
	if os.Getenv("TMPDIR") != "" || unix.Statfs(os.TempDir(), &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
		return env
	}
	return append(env, "TMPDIR="+onDisk)
}
