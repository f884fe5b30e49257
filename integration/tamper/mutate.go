package tamper

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mutator changes layers at random, the same for each seed.
type Mutator struct {
	r *rand.Rand
	// Layers are bottom first; Upper may be empty.
	Layers []string
	Upper  string
	// Did says what was done.
	Did []string
}

// NewMutator begins a sequence of mutations.
func NewMutator(seed uint64, layers []string, upper string) *Mutator {
	return &Mutator{r: rand.New(rand.NewPCG(seed, 0x5ea11f7)), Layers: layers, Upper: upper}
}

// Mutate makes n changes. Those that the kernel refuses are not counted.
func (m *Mutator) Mutate(n int) error {
	for tries := 0; len(m.Did) < n && tries < 100*n; tries++ {
		op := mutations[m.r.IntN(len(mutations))]
		what, err := op(m)
		var errno unix.Errno
		switch {
		case err == nil && what != "":
			m.Did = append(m.Did, what)
		case err == nil || errors.As(err, &errno):
		default:
			return err
		}
	}
	return nil
}

// pick returns an entry of a layer; "" is the layer's root, seldom.
func (m *Mutator) pick(want func(fs.FileMode) bool) (layer, path string) {
	layer = m.Layers[m.r.IntN(len(m.Layers))]
	if m.Upper != "" && m.r.IntN(12) == 0 {
		layer = m.Upper
	}
	var all []string
	err := filepath.WalkDir(layer, func(p string, e fs.DirEntry, err error) error {
		if err == nil && (p != layer || m.r.IntN(8) == 0) && want(e.Type()) {
			all = append(all, p)
		}
		return err
	})
	if err != nil || len(all) == 0 {
		return layer, ""
	}
	return layer, all[m.r.IntN(len(all))]
}

func everything(fs.FileMode) bool  { return true }
func regular(f fs.FileMode) bool   { return f.IsRegular() }
func directory(f fs.FileMode) bool { return f.IsDir() }

// fresh is a path that may or may not be there, often one of another layer.
func (m *Mutator) fresh() string {
	layer, dir := m.pick(directory)
	if dir == "" {
		dir = layer
	}
	if m.r.IntN(2) == 0 {
		// The place of something in another layer: new here, hiding it there.
		from, other := m.pick(everything)
		if other != "" {
			p := filepath.Join(layer, strings.TrimPrefix(other, from))
			if _, err := os.Lstat(filepath.Dir(p)); err == nil {
				return p
			}
		}
	}
	names := []string{"evil", "a", "zz", ".hidden", "n\xff", "new\nline", strings.Repeat("l", 255), "motd", ".wh.motd", ".wh..wh..opq"}
	return filepath.Join(dir, names[m.r.IntN(len(names))])
}

func (m *Mutator) say(format string, args ...any) (string, error) {
	s := fmt.Sprintf(format, args...)
	for i, l := range m.Layers {
		s = strings.ReplaceAll(s, l, fmt.Sprintf("<%d>", i))
	}
	if m.Upper != "" {
		s = strings.ReplaceAll(s, m.Upper, "<upper>")
	}
	return s, nil
}

// did is the result of a change that either happened or was refused.
func (m *Mutator) did(err error, format string, args ...any) (string, error) {
	if err != nil {
		return "", err
	}
	return m.say(format, args...)
}

// kept runs f and puts the times of path and its directory back, half the time.
func (m *Mutator) kept(path string, f func() error) error {
	var self, dir unix.Stat_t
	had := unix.Lstat(path, &self) == nil
	if err := unix.Lstat(filepath.Dir(path), &dir); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	if m.r.IntN(2) == 0 {
		return nil
	}
	put := func(p string, st *unix.Stat_t) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if had {
		if err := put(path, &self); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return put(filepath.Dir(path), &dir)
}

var attributeNames = []string{
	"trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy", "trusted.overlay.origin", "trusted.overlay.whiteout",
	"trusted.overlay.impure", "trusted.overlay.nlink", "trusted.overlay.upper", "trusted.overlay.protattr", "trusted.overlay.uuid",
	"trusted.overlay.overlay.opaque", "user.overlay.opaque", "user.overlay.redirect", "user.label", "user.new", "trusted.new",
	"security.capability", "security.unknown", "system.posix_acl_access", "system.posix_acl_default",
}

// acl grants user 1000 everything (acl(5), linux/posix_acl_xattr.h).
const acl = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe8\x03\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"

func (m *Mutator) value(name string) string {
	switch {
	case name == "security.capability":
		return Admin
	case strings.HasPrefix(name, "system.posix_acl"):
		return acl
	}
	values := []string{"y", "x", "n", "", "/etc", "etc", "../etc", "\x00\xfb\x1d\x00\x00"}
	return values[m.r.IntN(len(values))]
}

var mutations = []func(*Mutator) (string, error){
	func(m *Mutator) (string, error) {
		_, p := m.pick(regular)
		if st, err := os.Lstat(p); err != nil || st.Size() < 4 {
			return "", nil
		}
		return m.did(m.kept(p, func() error { return flipByte(p) }), "flip a byte of %q", p)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(regular)
		n := m.r.Int64N(64)
		return m.did(m.kept(p, func() error { return unix.Truncate(p, n) }), "truncate %q to %d", p, n)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(func(f fs.FileMode) bool { return f&fs.ModeSymlink == 0 })
		if p == "" {
			return "", nil
		}
		mode := m.r.Uint32N(0o10000)
		return m.did(unix.Chmod(p, mode), "chmod %q %o", p, mode)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(everything)
		uid, gid := m.r.IntN(3)*500, m.r.IntN(3)*500
		return m.did(unix.Lchown(p, uid, gid), "chown %q %d:%d", p, uid, gid)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(everything)
		t := published.Add(time.Duration(m.r.IntN(3)-1) * time.Second).Add(time.Duration(m.r.IntN(2)) * time.Millisecond)
		ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(t.UnixNano())}
		return m.did(unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW), "time of %q to %s", p, t.UTC().Format(time.RFC3339Nano))
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(everything)
		name := attributeNames[m.r.IntN(len(attributeNames))]
		v := m.value(name)
		return m.did(unix.Lsetxattr(p, name, []byte(v), 0), "set %s=%q of %q", name, v, p)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(everything)
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(p, buf)
		if err != nil || n == 0 {
			return "", err
		}
		names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
		name := names[m.r.IntN(len(names))]
		return m.did(unix.Lremovexattr(p, name), "remove %s of %q", name, p)
	},
	func(m *Mutator) (string, error) {
		layer, p := m.pick(everything)
		if p == "" || p == layer {
			return "", nil
		}
		return m.did(m.kept(p, func() error { return os.RemoveAll(p) }), "remove %q", p)
	},
	func(m *Mutator) (string, error) {
		p := m.fresh()
		kinds := []struct {
			name string
			mode uint32
			dev  int
		}{{"file", unix.S_IFREG | 0o644, 0}, {"FIFO", unix.S_IFIFO | 0o644, 0}, {"socket", unix.S_IFSOCK | 0o644, 0}, {"whiteout", unix.S_IFCHR, 0},
			{"device", unix.S_IFBLK | 0o666, int(unix.Mkdev(254, 0))}, {"device", unix.S_IFCHR | 0o666, int(unix.Mkdev(1, 3))}}
		k := kinds[m.r.IntN(len(kinds))]
		return m.did(m.kept(p, func() error { return unix.Mknod(p, k.mode, k.dev) }), "make a %s %q", k.name, p)
	},
	func(m *Mutator) (string, error) {
		p := m.fresh()
		return m.did(m.kept(p, func() error { return unix.Mkdir(p, 0o755) }), "make a directory %q", p)
	},
	func(m *Mutator) (string, error) {
		p := m.fresh()
		return m.did(m.kept(p, func() error { return unix.Symlink("/etc/passwd", p) }), "make a symbolic link %q", p)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(everything)
		to := m.fresh()
		flags := uint(unix.RENAME_NOREPLACE)
		if _, err := os.Lstat(to); err == nil {
			flags = unix.RENAME_EXCHANGE
		}
		return m.did(m.kept(to, func() error { return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, to, flags) }), "rename %q to %q (%d)", p, to, flags)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(regular)
		to := m.fresh()
		return m.did(m.kept(to, func() error { return unix.Link(p, to) }), "link %q to %q", p, to)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(regular)
		_, to := m.pick(regular)
		if p == to || p == "" || to == "" {
			return "", nil
		}
		return m.did(m.kept(to, func() error { return errors.Join(os.Remove(to), os.Link(p, to)) }), "make %q a link to %q", to, p)
	},
	func(m *Mutator) (string, error) {
		_, p := m.pick(func(f fs.FileMode) bool { return f&fs.ModeSymlink != 0 })
		if p == "" {
			return "", nil
		}
		return m.did(m.kept(p, func() error { return errors.Join(os.Remove(p), os.Symlink("elsewhere", p)) }), "retarget %q", p)
	},
	func(m *Mutator) (string, error) {
		a, b := m.r.IntN(len(m.Layers)), m.r.IntN(len(m.Layers))
		if a == b {
			return "", nil
		}
		return m.did(unix.Renameat2(unix.AT_FDCWD, m.Layers[a], unix.AT_FDCWD, m.Layers[b], unix.RENAME_EXCHANGE), "swap layers %d and %d", a, b)
	},
}

// Benign makes a change that nobody can see afterwards.
func (m *Mutator) Benign() error {
	_, p := m.pick(regular)
	if p == "" {
		return nil
	}
	var self, dir unix.Stat_t
	if err := errors.Join(unix.Lstat(p, &self), unix.Lstat(filepath.Dir(p), &dir)); err != nil {
		return err
	}
	b, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	// Written through the same inode, named twice for a moment, read, and with
	// all times but the change time as they were.
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, werr := f.Write(b)
	err = errors.Join(werr, f.Close(), os.Link(p, p+".moment"), os.Remove(p+".moment"),
		unix.Fchmodat(unix.AT_FDCWD, p, self.Mode&0o7777, 0), m.capability(p),
		unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{self.Atim, self.Mtim}, 0),
		unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Dir(p), []unix.Timespec{dir.Atim, dir.Mtim}, 0))
	m.Did = append(m.Did, "write "+p+" as it was")
	return err
}

// capability puts back what a write takes away.
func (m *Mutator) capability(p string) error {
	if filepath.Base(p) != "capable" {
		return nil
	}
	return unix.Setxattr(p, "security.capability", []byte(NetRaw), 0)
}
