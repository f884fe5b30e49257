package image

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The images of the tests.
const (
	TinyName  = "sealift.test/tiny:1"
	LargeName = "sealift.test/large:1"
)

var config = v1.ImageConfig{
	Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	Cmd: []string{"/bin/sh"},
}

// Tiny is a busybox in one layer.
func Tiny(busybox string) Spec {
	return Spec{Name: TinyName, Layers: []Layer{base(busybox)}, Config: config}
}

// base is what a shell needs.
func base(busybox string) Layer {
	return func(w *Writer) error {
		b, err := os.ReadFile(busybox)
		if err != nil {
			return err
		}
		list, err := exec.Command(busybox, "--list").Output()
		if err != nil {
			return fmt.Errorf("%s --list: %w", busybox, err)
		}
		for _, d := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "var"} {
			if err := w.Dir(d, 0o755); err != nil {
				return err
			}
		}
		if err := w.Dir("tmp", 0o1777); err != nil {
			return err
		}
		if err := w.File("bin/busybox", 0o755, b); err != nil {
			return err
		}
		for _, applet := range strings.Fields(string(list)) {
			if applet != "busybox" {
				if err := w.Symlink("bin/"+applet, "busybox"); err != nil {
					return err
				}
			}
		}
		if err := w.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")); err != nil {
			return err
		}
		if err := w.File("etc/group", 0o644, []byte("root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n")); err != nil {
			return err
		}
		return w.File("etc/motd", 0o644, []byte("an ordinary container\n"))
	}
}

// Large is some 300 MB in four layers: much data, odd entries, and a last layer
// that takes things away.
func Large(busybox string) Spec {
	return Spec{Name: LargeName, Layers: []Layer{base(busybox), data, odd, taken}, Config: config}
}

// data is 6,000 files, few of them large.
func data(w *Writer) error {
	for d := range 60 {
		dir := fmt.Sprintf("data/%02d", d)
		if d == 0 {
			if err := w.Dir("data", 0o755); err != nil {
				return err
			}
		}
		if err := w.Dir(dir, 0o755); err != nil {
			return err
		}
		for f := range 100 {
			n := 512 << (f % 8)
			if f == 99 {
				n = 3 << 20
			}
			if err := w.Random(fmt.Sprintf("%s/%03d", dir, f), 0o644, n, uint64(d*1000+f)); err != nil {
				return err
			}
		}
	}
	return w.Random("data/blob", 0o600, 64<<20, 1)
}

// odd has an entry of every kind that needs care.
func odd(w *Writer) error {
	long := strings.Repeat("a-rather-long-directory-name/", 9)
	steps := []func() error{
		func() error { return w.Dir("odd", 0o755) },
		func() error { return w.File("odd/original", 0o640, []byte("one inode, three names\n")) },
		func() error { return w.Link("odd/second-name", "odd/original") },
		func() error { return w.Link("odd/third-name", "odd/original") },
		func() error { return w.File("odd/setuid", 0o4755, []byte("#!/bin/sh\nid\n")) },
		func() error { return w.File("odd/setgid", 0o2755, []byte("#!/bin/sh\nid\n")) },
		func() error { return w.capability("odd/ping") },
		func() error { return w.xattr("odd/labelled") },
		func() error { return w.owned("odd/owned", 65534, 1000) },
		func() error { return w.File(long+"file", 0o644, []byte("deep\n")) },
		func() error { return w.File("odd/"+strings.Repeat("n", 255), 0o644, []byte("long\n")) },
		func() error { return w.File("odd/Ünïcødé-名前-🦭", 0o644, []byte("utf-8\n")) },
		func() error { return w.File("odd/combined-e\u0301", 0o644, []byte("decomposed\n")) },
		func() error { return w.File("odd/combined-\u00e9", 0o644, []byte("composed\n")) },
		func() error { return w.File("odd/with space\tand\nnewline", 0o644, []byte("white\n")) },
		func() error { return w.File("odd/empty", 0o644, nil) },
		func() error { return w.Sparse("odd/sparse", 48<<20, 7) },
		func() error { return w.File("odd/zeros", 0o644, make([]byte, 8<<20)) },
		func() error { return w.Symlink("odd/absolute", "/etc/passwd") },
		func() error { return w.Symlink("odd/dangling", "nowhere/at/all") },
		func() error { return w.special("odd/fifo", tar.TypeFifo, 0, 0) },
		func() error { return w.special("odd/null", tar.TypeChar, 1, 3) },
		func() error { return w.Dir("odd/sticky", 0o1777) },
		func() error { return w.Dir("odd/private", 0o700) },
		func() error { return w.File("no/parents/named/file", 0o644, []byte("implied\n")) },
	}
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

// taken removes a file, replaces one, and makes two directories opaque.
func taken(w *Writer) error {
	steps := []func() error{
		func() error { return w.File("data/00/.wh.001", 0, nil) },
		func() error { return w.File("data/.wh.59", 0, nil) },
		func() error { return w.Random("data/00/002", 0o644, 4096, 99) },
		func() error { return w.Dir("data/01", 0o755) },
		func() error { return w.File("data/01/.wh..wh..opq", 0, nil) },
		func() error { return w.File("data/01/only", 0o644, []byte("the rest is gone\n")) },
		func() error { return w.Dir("odd/private", 0o700) },
		func() error { return w.File("odd/private/.wh..wh..opq", 0, nil) },
	}
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

// Many is a busybox and n files of 4 KiB in one more layer.
func Many(busybox string, n int) Spec {
	return Spec{
		Name: fmt.Sprintf("sealift.test/many-%d:1", n), Config: config,
		Layers: []Layer{base(busybox), func(w *Writer) error {
			for i := range n {
				if i%500 == 0 {
					if err := w.Dir(fmt.Sprintf("many-%03d", i/500), 0o755); err != nil {
						return err
					}
				}
				if err := w.Random(fmt.Sprintf("many-%03d/%05d", i/500, i), 0o644, 4096, uint64(i)); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

// capability writes a file with cap_net_raw=ep (capabilities(7), VFS_CAP_REVISION_2).
func (w *Writer) capability(name string) error {
	caps := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return w.Header(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o755,
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": string(caps)},
	}, []byte("#!/bin/sh\n"))
}

func (w *Writer) xattr(name string) error {
	return w.Header(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o644,
		PAXRecords: map[string]string{"SCHILY.xattr.user.sealift": "label"},
	}, []byte("labelled\n"))
}

func (w *Writer) owned(name string, uid, gid int) error {
	return w.Header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Uid: uid, Gid: gid}, []byte("owned\n"))
}

func (w *Writer) special(name string, kind byte, major, minor int64) error {
	return w.Header(&tar.Header{Typeflag: kind, Name: name, Mode: 0o644, Devmajor: major, Devminor: minor}, nil)
}

// Busybox is where a test host's root file system has a static busybox.
func Busybox(rootfs string) string { return filepath.Join(rootfs, "usr", "bin", "busybox") }
