package tree_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// capNetRaw is a file capability: cap_net_raw+ep.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// mutation is one change of the sample on disk and what must be found.
type mutation struct {
	name   string
	path   string // where it is found
	kind   string
	more   []string // kinds that may be found besides, anywhere
	keepMT bool     // the time was put back, as an attacker would
	do     func(at func(string) string) error
}

var mutations = []mutation{
	{name: "content byte", path: "etc/conf", kind: layer.KindContent, more: []string{layer.KindContent}, keepMT: true,
		do: func(at func(string) string) error { return os.WriteFile(at("etc/conf"), []byte("cond"), 0o644) }},
	{name: "truncation", path: "etc/conf", kind: layer.KindSize, more: []string{layer.KindSize}, keepMT: true,
		do: func(at func(string) string) error { return os.Truncate(at("etc/conf"), 1) }},
	{name: "growth", path: "etc/conf", kind: layer.KindSize, more: []string{layer.KindSize}, keepMT: true,
		do: func(at func(string) string) error { return os.Truncate(at("etc/conf"), 5) }},
	{name: "mode", path: "usr/bin/tool", kind: layer.KindMode,
		do: func(at func(string) string) error { return os.Chmod(at("usr/bin/tool"), 0o757) }},
	{name: "set-user-ID", path: "usr/bin/tool", kind: layer.KindMode,
		do: func(at func(string) string) error { return unix.Chmod(at("usr/bin/tool"), 0o4755) }},
	{name: "directory mode", path: "etc", kind: layer.KindMode,
		do: func(at func(string) string) error { return os.Chmod(at("etc"), 0o777) }},
	{name: "owner", path: "usr/bin/tool", kind: layer.KindOwner,
		do: func(at func(string) string) error { return os.Lchown(at("usr/bin/tool"), 7, 0) }},
	{name: "group of a link", path: "usr/bin/alias", kind: layer.KindOwner,
		do: func(at func(string) string) error { return os.Lchown(at("usr/bin/alias"), 0, 7) }},
	{name: "file capability", path: "usr/bin/tool", kind: layer.KindXattr,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("usr/bin/tool"), "security.capability", []byte(capNetRaw), 0)
		}},
	{name: "user attribute of a directory", path: "etc", kind: layer.KindXattr,
		do: func(at func(string) string) error { return unix.Setxattr(at("etc"), "user.x", nil, 0) }},
	{name: "attribute outside the list", path: "usr/bin/tool", kind: layer.KindXattr,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("usr/bin/tool"), "trusted.x", []byte("1"), 0)
		}},
	{name: "ACL", path: "usr/bin/tool", kind: layer.KindXattr, more: []string{layer.KindMode},
		do: func(at func(string) string) error {
			return unix.Setxattr(at("usr/bin/tool"), "system.posix_acl_access", []byte("\x02\x00\x00\x00"+
				"\x01\x00\x07\x00\xff\xff\xff\xff"+"\x02\x00\x07\x00\xe8\x03\x00\x00"+"\x04\x00\x05\x00\xff\xff\xff\xff"+
				"\x10\x00\x05\x00\xff\xff\xff\xff"+"\x20\x00\x05\x00\xff\xff\xff\xff"), 0)
		}},
	{name: "link target", path: "usr/bin/alias", kind: layer.KindLink, keepMT: true,
		do: func(at func(string) string) error {
			return replaceWith(at("usr/bin/alias"), func(p string) error { return os.Symlink("fool", p) })
		}},
	{name: "added file", path: "usr/bin/new", kind: layer.KindAdded,
		do: func(at func(string) string) error { return os.WriteFile(at("usr/bin/new"), nil, 0o644) }},
	{name: "added below a named directory", path: "etc/new", kind: layer.KindAdded, more: []string{layer.KindMTime},
		do: func(at func(string) string) error { return os.WriteFile(at("etc/new"), nil, 0o644) }},
	{name: "added directory", path: "usr/new", kind: layer.KindAdded,
		do: func(at func(string) string) error { return os.Mkdir(at("usr/new"), 0o755) }},
	{name: "removed file", path: "usr/bin/tool", kind: layer.KindMissing,
		do: func(at func(string) string) error { return os.Remove(at("usr/bin/tool")) }},
	{name: "removed directory", path: "usr/bin", kind: layer.KindMissing, more: []string{layer.KindMissing},
		do: func(at func(string) string) error { return os.RemoveAll(at("usr/bin")) }},
	{name: "swapped files", path: "etc/peer", kind: layer.KindContent, more: []string{layer.KindContent, layer.KindHardlink, layer.KindMTime},
		do: func(at func(string) string) error {
			return unix.Renameat2(unix.AT_FDCWD, at("etc/peer"), unix.AT_FDCWD, at("etc/conf"), unix.RENAME_EXCHANGE)
		}},
	{name: "replaced by a link", path: "usr/bin/tool", kind: layer.KindType,
		do: func(at func(string) string) error {
			return replaceWith(at("usr/bin/tool"), func(p string) error { return os.Symlink("/bin/sh", p) })
		}},
	{name: "hard link broken", path: "etc/linked", kind: layer.KindHardlink, more: []string{layer.KindHardlink}, keepMT: true,
		do: func(at func(string) string) error {
			return replaceWith(at("etc/linked"), func(p string) error { return os.WriteFile(p, []byte("conf"), 0o644) })
		}},
	{name: "hard link made", path: "usr/bin/tool", kind: layer.KindHardlink, more: []string{layer.KindAdded},
		do: func(at func(string) string) error { return os.Link(at("usr/bin/tool"), at("usr/bin/another")) }},
	{name: "hard link from outside", path: "usr/bin/tool", kind: layer.KindHardlink,
		do: func(at func(string) string) error { return os.Link(at("usr/bin/tool"), at("../outside")) }},
	{name: "whiteout removed", path: "etc/gone", kind: layer.KindWhiteout, more: []string{layer.KindMTime},
		do: func(at func(string) string) error { return os.Remove(at("etc/gone")) }},
	{name: "whiteout added", path: "usr/gone", kind: layer.KindWhiteout,
		do: func(at func(string) string) error { return unix.Mknod(at("usr/gone"), unix.S_IFCHR, 0) }},
	{name: "file became a whiteout", path: "usr/bin/tool", kind: layer.KindWhiteout,
		do: func(at func(string) string) error {
			return replaceWith(at("usr/bin/tool"), func(p string) error { return unix.Mknod(p, unix.S_IFCHR, 0) })
		}},
	{name: "opaque mark removed", path: "etc", kind: layer.KindOpaque,
		do: func(at func(string) string) error { return unix.Removexattr(at("etc"), "trusted.overlay.opaque") }},
	{name: "opaque mark added", path: "usr", kind: layer.KindOpaque,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("usr"), "trusted.overlay.opaque", []byte("y"), 0)
		}},
	{name: "opaque mark of the root", path: "", kind: layer.KindOpaque,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("."), "trusted.overlay.opaque", []byte("y"), 0)
		}},
	{name: "opaque mark x", path: "usr", kind: layer.KindOverlayXattr,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("usr"), "trusted.overlay.opaque", []byte("x"), 0)
		}},
	{name: "opaque mark in the other spelling", path: "usr", kind: layer.KindOverlayXattr,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("usr"), "user.overlay.opaque", []byte("y"), 0)
		}},
	{name: "whiteout by attribute", path: "etc/peer", kind: layer.KindOverlayXattr,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("etc/peer"), "trusted.overlay.whiteout", nil, 0)
		}},
	{name: "redirect", path: "usr", kind: layer.KindRedirect,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("usr"), "trusted.overlay.redirect", []byte("/etc"), 0)
		}},
	{name: "redirect of the root", path: "", kind: layer.KindRedirect,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("."), "trusted.overlay.redirect", []byte("/etc"), 0)
		}},
	{name: "metacopy", path: "usr/bin/tool", kind: layer.KindMetacopy,
		do: func(at func(string) string) error {
			return unix.Setxattr(at("usr/bin/tool"), "trusted.overlay.metacopy", nil, 0)
		}},
	{name: "device number", path: "etc/null", kind: layer.KindDevice, keepMT: true, more: []string{layer.KindMTime},
		do: func(at func(string) string) error {
			return replaceWith(at("etc/null"), func(p string) error {
				if err := unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 1))); err != nil {
					return err
				}
				return os.Chmod(p, 0o666)
			})
		}},
	{name: "character device became a block device", path: "etc/null", kind: layer.KindType, more: []string{layer.KindMTime},
		do: func(at func(string) string) error {
			return replaceWith(at("etc/null"), func(p string) error { return unix.Mknod(p, unix.S_IFBLK|0o666, int(unix.Mkdev(1, 3))) })
		}},
	{name: "time only", path: "usr/bin/tool", kind: layer.KindMTime,
		do: func(at func(string) string) error {
			return os.Chtimes(at("usr/bin/tool"), time.Unix(1, 0), time.Unix(1_700_000_001, 0))
		}},
	{name: "time of a directory", path: "etc", kind: layer.KindMTime,
		do: func(at func(string) string) error { return os.Chtimes(at("etc"), time.Unix(1, 0), time.Unix(5, 0)) }},
	{name: "mounted on a file", path: "etc/peer", kind: layer.KindMount, more: []string{layer.KindMissing, layer.KindHardlink},
		do: func(at func(string) string) error { return bind(at("etc/conf"), at("etc/peer")) }},
	{name: "mounted on a directory", path: "usr/bin", kind: layer.KindMount, more: []string{layer.KindMissing},
		do: func(at func(string) string) error { return bind(at("usr/bin"), at("usr/bin")) }},
}

func replaceWith(path string, create func(string) error) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return create(path)
}

func bind(from, to string) error { return unix.Mount(from, to, "", unix.MS_BIND, "") }

// Every kind of change is found, under its kind and at its path; and a binding
// made before notices every one of them, whatever times are put back.
func TestMutations(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			dir, want := sample(t)
			p := func(name string) string { return filepath.Join(dir, name) }
			before := measure(t, dir, tree.Options{Want: want})
			if len(before.Differences) != 0 || before.Binding.Class() != tree.ClassTree {
				t.Fatalf("before: %v, %s %s", before.Differences, before.Binding.Class(), before.Binding.Reason())
			}
			t.Cleanup(func() {
				for _, name := range []string{"etc/peer", "usr/bin"} {
					// Mostly nothing is mounted there; the temporary directory's own
					// removal fails if something stays.
					_ = unix.Unmount(p(name), unix.MNT_DETACH)
				}
				_ = os.Remove(p("../outside"))
			})
			if err := m.do(p); err != nil {
				t.Fatal(err)
			}
			if m.keepMT {
				setMTime(t, p(m.path), at)
				setMTime(t, p("etc"), at)
			}
			after := measure(t, dir, tree.Options{Want: want})
			found := false
			for _, d := range after.Differences {
				switch {
				case d.Path == m.path && d.Kind == m.kind:
					found = true
				case !expected(d.Kind, m):
					t.Errorf("unexpected: %s", d)
				}
			}
			if !found {
				t.Errorf("%s at %q not found in %v", m.kind, m.path, after.Differences)
			}
			if after.Manifest.Digest() == want.Digest() && m.name != "hard link from outside" {
				t.Error("the digest stayed")
			}
			moved(t, before.Binding)
		})
	}
}

func expected(kind string, m mutation) bool {
	for _, k := range m.more {
		if k == kind {
			return true
		}
	}
	// Replacing an entry moves its own time and its directory's.
	return kind == layer.KindMTime
}
