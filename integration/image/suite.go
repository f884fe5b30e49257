package image

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Suite is what containerd's client suite expects of its busybox: a bash too,
// users with homes, and a program with the set-user-ID bit. Its second layer
// makes it an image of several layers.
func Suite(rootfs string) func(busybox string) Spec {
	return func(busybox string) Spec {
		return Spec{Name: "sealift.test/suite:1", Config: config, Layers: []Layer{
			base(busybox),
			func(w *Writer) error {
				if err := users(w); err != nil {
					return err
				}
				if err := w.File("usr/bin/passwd", 0o4755, []byte("#!/bin/sh\n")); err != nil {
					return err
				}
				return bash(w, rootfs)
			},
		}}
	}
}

func users(w *Writer) error {
	if err := w.File("etc/passwd", 0o644, []byte(`root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`)); err != nil {
		return err
	}
	return w.File("etc/group", 0o644, []byte(`root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
wheel:x:10:root
mail:x:8:
www-data:x:33:
operator:x:37:
users:x:100:
nogroup:x:65534:
`))
}

// bash copies Debian's, and its sleep, with the libraries it is linked to.
func bash(w *Writer, rootfs string) error {
	for _, d := range []string{"lib", "lib64"} {
		if err := w.Dir(d, 0o755); err != nil {
			return err
		}
	}
	// Debian's busybox has a sleep that does not know "inf".
	files := map[string]string{"usr/bin/bash": "bin/bash", "usr/bin/sleep": "bin/sleep"}
	for _, pattern := range []string{"usr/lib/*-linux-gnu*/libc.so.6", "usr/lib/*-linux-gnu*/libtinfo.so.6"} {
		found, err := filepath.Glob(filepath.Join(rootfs, pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("%s in %s: %d files: %w", pattern, rootfs, len(found), fs.ErrNotExist)
		}
		rel := strings.TrimPrefix(found[0], rootfs+"/")
		files[rel] = strings.TrimPrefix(rel, "usr/")
	}
	for _, loader := range []string{"usr/lib64/ld-linux-x86-64.so.2", "usr/lib/ld-linux-aarch64.so.1"} {
		if _, err := os.Stat(filepath.Join(rootfs, loader)); err == nil {
			files[loader] = strings.TrimPrefix(loader, "usr/")
		}
	}
	for _, source := range slices.Sorted(maps.Keys(files)) {
		target := files[source]
		b, err := os.ReadFile(filepath.Join(rootfs, source))
		if err != nil {
			return err
		}
		if err := w.File(target, 0o755, b); err != nil {
			return err
		}
	}
	return nil
}
