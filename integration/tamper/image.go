// Package tamper changes what containerd unpacked, as somebody who can write to
// the disk would, and sees to it that nothing so changed starts. The changes are
// a fixed list and a generator; what a container could see of a change is read
// from the mounted layers.
package tamper

import (
	"archive/tar"
	"os"

	"github.com/sealift/sealift/integration/image"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The images: one with every kind of entry that can be changed, and another that
// differs from it, to be put in its place.
const (
	Name      = "sealift.test/tamper:1"
	OtherName = "sealift.test/tamper-other:1"
)

// Image has three layers. Files in /etc are in the layers that later ones cover,
// so that the order shows.
func Image(busybox string) image.Spec {
	return image.Spec{Name: Name, Config: config("image"), Layers: []image.Layer{bottom(busybox), middle, top}}
}

// Other is another image on the same bottom layer.
func Other(busybox string) image.Spec {
	return image.Spec{Name: OtherName, Config: config("other"), Layers: []image.Layer{bottom(busybox), middle, func(w *image.Writer) error {
		return w.File("etc/motd", 0o644, []byte("another image\n"))
	}}}
}

func config(of string) v1.ImageConfig {
	return v1.ImageConfig{Env: []string{"PATH=/bin", "OF=" + of}, Cmd: []string{"/bin/true"}}
}

// Small is Image without a program in it: it can be measured in no time, and
// not run.
func Small(string) image.Spec {
	return image.Spec{Name: Name, Config: config("image"), Layers: []image.Layer{bottom(""), middle, top}}
}

func bottom(busybox string) image.Layer {
	return func(w *image.Writer) error {
		b := []byte("not a busybox\n")
		if busybox != "" {
			var err error
			if b, err = os.ReadFile(busybox); err != nil {
				return err
			}
		}
		if err := w.Dir("bin", 0o755); err != nil {
			return err
		}
		if err := w.File("bin/busybox", 0o755, b); err != nil {
			return err
		}
		for _, applet := range []string{"sh", "cat", "true", "ls", "stat", "sleep"} {
			if err := w.Symlink("bin/"+applet, "busybox"); err != nil {
				return err
			}
		}
		for _, d := range []string{"dev", "etc", "proc", "run", "sys", "tmp", "usr", "usr/lib"} {
			if err := w.Dir(d, 0o755); err != nil {
				return err
			}
		}
		for _, f := range [][2]string{
			{"etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"},
			{"etc/group", "root:x:0:\n"},
			{"etc/motd", "bottom\n"}, {"etc/bottom", "only in the bottom layer\n"},
		} {
			if err := w.File(f[0], 0o644, []byte(f[1])); err != nil {
				return err
			}
		}
		if err := w.Symlink("lib", "usr/lib"); err != nil {
			return err
		}
		return files(w, "old", "one", "two", "three")
	}
}

func middle(w *image.Writer) error {
	for _, step := range []func() error{
		func() error { return w.File("etc/motd", 0o644, []byte("middle\n")) },
		func() error { return w.File("etc/middle", 0o644, []byte("only in the middle layer\n")) },
		func() error { return files(w, "opt", "first", "second", "third", "fourth") },
		func() error { return w.Dir("opt/empty", 0o755) },
		func() error { return w.Dir("opt/deep", 0o755) },
		func() error { return w.Dir("opt/deep/er", 0o750) },
		func() error { return w.File("opt/deep/er/file", 0o600, []byte("deep\n")) },
		func() error { return w.File("opt/plain", 0o755, []byte("#!/bin/sh\ntrue\n")) },
		func() error { return w.File("opt/setuid", 0o4755, []byte("#!/bin/sh\nid\n")) },
		func() error { return w.File("opt/nothing", 0o644, nil) },
		func() error { return w.File("opt/names", 0o644, []byte("one inode, two names\n")) },
		func() error { return w.Link("opt/names-too", "opt/names") },
		func() error { return w.Symlink("opt/link", "/etc/middle") },
		func() error {
			return w.Header(&tar.Header{Typeflag: tar.TypeReg, Name: "opt/capable", Mode: 0o755,
				PAXRecords: map[string]string{"SCHILY.xattr.security.capability": NetRaw}}, []byte("#!/bin/sh\n"))
		},
		func() error {
			return w.Header(&tar.Header{Typeflag: tar.TypeReg, Name: "opt/labelled", Mode: 0o644,
				PAXRecords: map[string]string{"SCHILY.xattr.user.label": "as published"}}, []byte("labelled\n"))
		},
		func() error {
			return w.Header(&tar.Header{Typeflag: tar.TypeReg, Name: "opt/owned", Mode: 0o640, Uid: 65534, Gid: 7}, []byte("owned\n"))
		},
		func() error {
			return w.Header(&tar.Header{Typeflag: tar.TypeChar, Name: "opt/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, nil)
		},
		func() error {
			return w.Header(&tar.Header{Typeflag: tar.TypeFifo, Name: "opt/fifo", Mode: 0o600}, nil)
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func top(w *image.Writer) error {
	for _, step := range []func() error{
		func() error { return w.File("etc/motd", 0o644, []byte("top\n")) },
		func() error { return w.File("etc/.wh.bottom", 0, nil) },
		func() error { return w.Dir("old", 0o755) },
		func() error { return w.File("old/.wh..wh..opq", 0, nil) },
		func() error { return w.File("old/new", 0o644, []byte("alone here\n")) },
		func() error { return w.File("usr/lib/app.so", 0o755, []byte("a library\n")) },
		func() error { return w.File("unnamed/parent/file", 0o644, []byte("its parents have no entry\n")) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func files(w *image.Writer, dir string, names ...string) error {
	if err := w.Dir(dir, 0o755); err != nil {
		return err
	}
	for _, n := range names {
		if err := w.File(dir+"/"+n, 0o644, []byte("the file "+n+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// NetRaw and Admin are values of security.capability: cap_net_raw=ep and
// cap_sys_admin=ep (capabilities(7), VFS_CAP_REVISION_2).
const (
	NetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	Admin  = "\x01\x00\x00\x02\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)
