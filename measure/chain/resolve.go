package chain

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// Resolve finds what the lower directories stand for on this host: a directory
// on which an EROFS blob is mounted becomes that blob. Its error is a *Problem
// for a mounted file system that is neither a plain directory nor EROFS.
func Resolve(c *Chain) error {
	for i, l := range c.Lowers {
		if l.Dir == "" {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Statfs(l.Dir, &st); err != nil {
			return fmt.Errorf("lower directory %s: %w", l.Dir, err)
		}
		if uint32(st.Type) != unix.EROFS_SUPER_MAGIC_V1 {
			continue
		}
		blob, err := mountedBlob(l.Dir)
		if err != nil {
			return err
		}
		c.Lowers[i] = Lower{Blob: blob, Mountpoint: l.Dir}
	}
	return nil
}

// mountedBlob names the file behind the EROFS that is mounted on dir. An EROFS
// may span several files (device=), which is not one layer's blob.
func mountedBlob(dir string) (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("mounts: %w", err)
	}
	blob := ""
	for line := range strings.SplitSeq(string(b), "\n") {
		// proc_pid_mountinfo(5): fields before " - " end with the mount point and
		// options; after it come type, source and super options.
		head, tail, ok := strings.Cut(line, " - ")
		f, s := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 5 || len(s) < 3 || unescape(f[4]) != dir {
			continue
		}
		if s[0] != "erofs" || f[3] != "/" {
			blob = ""
			continue
		}
		if strings.Contains(s[2], "device=") {
			return "", &Problem{Code: "mount-type", Subject: "lower directory " + dir, Message: "an EROFS of several devices is not one layer"}
		}
		blob = unescape(s[1])
	}
	if blob == "" {
		return "", &Problem{Code: "mount-type", Subject: "lower directory " + dir, Message: "lies on an EROFS that is not mounted there"}
	}
	if name, ok := strings.CutPrefix(blob, "/dev/loop"); ok {
		file, err := os.ReadFile(filepath.Join("/sys/block/loop"+name, "loop/backing_file"))
		if err != nil {
			return "", fmt.Errorf("loop device %s: %w", blob, err)
		}
		blob = strings.TrimSuffix(string(file), "\n")
	}
	return blob, checkDir(blob)
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Layers returns the lower layers of a read-only view, resolved and bottom
// first. Of an erofs view, whose blobs containerd would mount one by one, they
// are the blobs.
func Layers(mounts []*nodev1.Mount) ([]Lower, error) {
	var blobs []Lower
	for _, m := range mounts {
		if m.GetType() != "erofs" {
			break
		}
		c, err := parseErofs(m)
		if err != nil {
			return nil, err
		}
		blobs = append(c.Lowers, blobs...)
	}
	if len(blobs) > 0 {
		return blobs, nil
	}
	c, err := Parse(mounts)
	if err != nil {
		return nil, err
	}
	return c.Lowers, Resolve(c)
}
