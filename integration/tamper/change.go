package tamper

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
)

// Change is one way of changing what was unpacked.
type Change struct {
	Name string
	// Apply changes the directories of the layers, bottom first.
	Apply func(layers []string) error
	// Path is what the refusal names, relative to the layer's root, and Kind how
	// it calls the difference.
	Path, Kind string
}

// In the order of the layers.
const (
	atBottom = iota
	atMiddle
	atTop
)

func in(n int, path string, f func(file string) error) func([]string) error {
	return func(layers []string) error { return f(filepath.Join(layers[n], path)) }
}

func inMiddle(path string, f func(file string) error) func([]string) error {
	return in(atMiddle, path, f)
}

// Changes is the fixed list for layers that are directories.
var Changes = []Change{
	{"content byte", inMiddle("opt/plain", flipByte), "opt/plain", layer.KindContent},
	{"content byte, time put back", inMiddle("opt/plain", withTime(flipByte)), "opt/plain", layer.KindContent},
	{"content byte of a file that a later layer hides", in(atBottom, "old/one", flipByte), "old/one", layer.KindContent},
	{"truncation", inMiddle("opt/plain", func(f string) error { return os.Truncate(f, 4) }), "opt/plain", layer.KindSize},
	{"growth", inMiddle("opt/plain", func(f string) error { return os.Truncate(f, 4096) }), "opt/plain", layer.KindSize},
	{"mode", inMiddle("opt/first", chmod(0o666)), "opt/first", layer.KindMode},
	{"mode of a directory", inMiddle("opt/deep", chmod(0o777)), "opt/deep", layer.KindMode},
	{"setuid added", inMiddle("opt/plain", chmod(0o4755)), "opt/plain", layer.KindMode},
	{"setuid removed", inMiddle("opt/setuid", chmod(0o755)), "opt/setuid", layer.KindMode},
	{"owner", inMiddle("opt/first", func(f string) error { return unix.Chown(f, 1000, 0) }), "opt/first", layer.KindOwner},
	{"group of a link", inMiddle("opt/link", func(f string) error { return unix.Lchown(f, 0, 1000) }), "opt/link", layer.KindOwner},
	{"capability added", inMiddle("opt/plain", setxattr("security.capability", Admin)), "opt/plain", layer.KindXattr},
	{"capability changed", inMiddle("opt/capable", setxattr("security.capability", Admin)), "opt/capable", layer.KindXattr},
	{"capability removed", inMiddle("opt/capable", func(f string) error { return unix.Removexattr(f, "security.capability") }), "opt/capable", layer.KindXattr},
	{"user attribute", inMiddle("opt/labelled", setxattr("user.label", "as changed")), "opt/labelled", layer.KindXattr},
	{"unknown attribute", inMiddle("opt/first", setxattr("trusted.unknown", "x")), "opt/first", layer.KindXattr},
	{"symbolic link's target", inMiddle("opt/link", func(f string) error {
		return errors.Join(os.Remove(f), os.Symlink("/etc/passwd", f), putTime(f))
	}), "opt/link", layer.KindLink},
	{"file added", inMiddle("opt/evil", create), "opt/evil", layer.KindAdded},
	{"file added to an empty directory", inMiddle("opt/empty/evil", create), "opt/empty/evil", layer.KindAdded},
	{"file added to the root", in(atTop, "evil", create), "evil", layer.KindAdded},
	{"file removed", inMiddle("opt/first", os.Remove), "opt/first", layer.KindMissing},
	{"files swapped", inMiddle("opt", func(d string) error {
		return unix.Renameat2(unix.AT_FDCWD, d+"/first", unix.AT_FDCWD, d+"/second", unix.RENAME_EXCHANGE)
	}), "opt/first", layer.KindSize},
	{"file replaced by a directory", inMiddle("opt/first", func(f string) error {
		return errors.Join(os.Remove(f), os.Mkdir(f, 0o644))
	}), "opt/first", layer.KindType},
	{"hard link made", inMiddle("opt", func(d string) error { return os.Link(d+"/first", d+"/zz") }), "opt/zz", layer.KindAdded},
	{"hard link made of two files", inMiddle("opt", func(d string) error {
		return errors.Join(os.Remove(d+"/second"), os.Link(d+"/first", d+"/second"))
	}), "opt/second", layer.KindHardlink},
	{"hard link broken", inMiddle("opt/names-too", func(f string) error { return replaceByCopy(f) }), "opt/names-too", layer.KindHardlink},
	{"hard link to outside", func(l []string) error {
		return os.Link(l[atMiddle]+"/opt/first", filepath.Dir(l[atMiddle])+"/outside")
	}, "opt/first", layer.KindHardlink},
	{"whiteout added", in(atTop, "etc/middle", func(f string) error { return unix.Mknod(f, unix.S_IFCHR, 0) }), "etc/middle", layer.KindWhiteout},
	{"whiteout removed", in(atTop, "etc/bottom", os.Remove), "etc/bottom", layer.KindWhiteout},
	{"opaque mark added", in(atTop, "etc", setxattr("trusted.overlay.opaque", "y")), "etc", layer.KindOpaque},
	{"opaque mark removed", in(atTop, "old", func(f string) error { return unix.Removexattr(f, "trusted.overlay.opaque") }), "old", layer.KindOpaque},
	{"opaque root", in(atTop, "", setxattr("trusted.overlay.opaque", "y")), "", layer.KindOpaque},
	{"device added", inMiddle("opt/disk", func(f string) error { return unix.Mknod(f, unix.S_IFBLK|0o666, int(unix.Mkdev(254, 0))) }), "opt/disk", layer.KindAdded},
	{"device changed", inMiddle("opt/null", func(f string) error {
		return errors.Join(os.Remove(f), unix.Mknod(f, unix.S_IFCHR, int(unix.Mkdev(1, 1))), os.Chmod(f, 0o666), putTime(f))
	}), "opt/null", layer.KindDevice},
	{"FIFO replaced by a socket", inMiddle("opt/fifo", func(f string) error {
		return errors.Join(os.Remove(f), unix.Mknod(f, unix.S_IFSOCK|0o600, 0))
	}), "opt/fifo", layer.KindType},
	{"time of a file only", inMiddle("opt/first", func(f string) error { return os.Chtimes(f, time.Time{}, published.Add(time.Second)) }), "opt/first", layer.KindMTime},
	{"time of a directory only", inMiddle("opt/deep", func(f string) error { return os.Chtimes(f, time.Time{}, published.Add(-time.Hour)) }), "opt/deep", layer.KindMTime},
	{"redirect", inMiddle("opt/deep", setxattr("trusted.overlay.redirect", "/etc")), "opt/deep", layer.KindRedirect},
	{"redirect of the root", in(atTop, "", setxattr("trusted.overlay.redirect", "/etc")), "", layer.KindRedirect},
	{"metacopy", in(atTop, "etc/motd", setxattr("trusted.overlay.metacopy", "")), "etc/motd", layer.KindMetacopy},
	{"whiteout by attribute", func(l []string) error {
		f := l[atTop] + "/etc/middle"
		return errors.Join(os.WriteFile(f, nil, 0o644), unix.Setxattr(f, "trusted.overlay.whiteout", nil, 0),
			unix.Setxattr(l[atTop]+"/etc", "trusted.overlay.opaque", []byte("x"), 0))
	}, "etc/middle", layer.KindOverlayXattr},
	{"unnamed parent's mode", in(atTop, "unnamed", chmod(0o777)), "unnamed", layer.KindImplied},
	{"unnamed parent's owner", in(atTop, "unnamed/parent", func(f string) error { return unix.Chown(f, 1000, 1000) }), "unnamed/parent", layer.KindImplied},
	{"unnamed parent's capability", in(atTop, "unnamed", setxattr("user.evil", "x")), "unnamed", layer.KindImplied},
}

// published is the time that all entries of the images have.
var published = time.Unix(1_700_000_000, 0)

func putTime(file string) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: published.Unix()}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, file, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// withTime puts the modification time back afterwards, as whoever wants to hide
// a change does.
func withTime(f func(string) error) func(string) error {
	return func(file string) error { return errors.Join(f(file), putTime(file)) }
}

func flipByte(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], 3); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b[:], 3)
	return err
}

func chmod(mode uint32) func(string) error {
	return func(file string) error { return unix.Chmod(file, mode) }
}

func setxattr(name, value string) func(string) error {
	return func(file string) error { return unix.Lsetxattr(file, name, []byte(value), 0) }
}

func create(file string) error { return os.WriteFile(file, []byte("evil\n"), 0o755) }

// replaceByCopy makes file an inode of its own with everything else as it was.
func replaceByCopy(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(file+".copy", os.O_CREATE|os.O_EXCL|os.O_WRONLY, st.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), os.Rename(file+".copy", file), os.Chmod(file, st.Mode().Perm()), putTime(file))
}
