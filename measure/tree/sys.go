package tree

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Paths below the root are opened without following a link anywhere and without
// crossing a mount: overlayfs does not see what is mounted inside a layer's
// directory, so neither must we.
const resolveInside = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openInside opens path below root; "" is the root itself. Reading must leave
// no trace: O_NOATIME needs ownership or CAP_FOWNER and is given up without.
func openInside(root int, path string, flags uint64) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOATIME, Resolve: resolveInside}
	if flags&unix.O_PATH != 0 {
		how.Flags &^= unix.O_NOATIME
	}
	for {
		fd, err := unix.Openat2(root, path, &how)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue // EAGAIN: a rename raced with the lookup (openat2(2))
		case errors.Is(err, unix.EPERM) && how.Flags&unix.O_NOATIME != 0:
			how.Flags &^= unix.O_NOATIME
			continue
		}
		return fd, err
	}
}

// emptyName asks *at calls about the descriptor itself.
var emptyName = [1]byte{}

const statxMask = unix.STATX_BASIC_STATS

// statxRaw is statx(2) on a name that is already terminated: no garbage in loops
// over tens of thousands of names.
func statxRaw(dir int, name *byte, flags int, st *unix.Statx_t) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)),
			uintptr(flags|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT), statxMask, uintptr(unsafe.Pointer(st)), 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

func statFD(fd int, st *unix.Statx_t) error {
	return statxRaw(fd, &emptyName[0], unix.AT_EMPTY_PATH, st)
}

// mountRoot reports that something is mounted on the entry st describes.
func mountRoot(st *unix.Statx_t) bool {
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

// coarseNow is the clock that stamps inodes, in nanoseconds. Every change from
// now on gets a ctime that is not smaller.
func coarseNow() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts); err != nil {
		return 0 // then every file counts as too fresh
	}
	return ts.Nano()
}

// identity is what Check compares of one entry: enough that any change through
// the file system moves it. Owner, link count and extended attributes are in
// it by way of ctime.
type identity struct {
	ino, size    uint64
	mtime, ctime int64
	mode         uint32
	name         uint32 // offset of the name in the binding's arena
}

func identityOf(st *unix.Statx_t) identity {
	return identity{ino: st.Ino, size: st.Size, mtime: nanoseconds(st.Mtime), ctime: nanoseconds(st.Ctime), mode: uint32(st.Mode)}
}

// same ignores the name.
func (a *identity) same(b *identity) bool {
	return a.ino == b.ino && a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime && a.mode == b.mode
}

// moved says which part differs, for people.
func (a *identity) moved(b *identity) string {
	var parts []string
	for _, p := range []struct {
		what string
		is   bool
	}{
		{"type", a.mode&unix.S_IFMT != b.mode&unix.S_IFMT}, {"inode", a.ino != b.ino}, {"size", a.size != b.size},
		{"mode", a.mode != b.mode}, {"mtime", a.mtime != b.mtime}, {"ctime", a.ctime != b.ctime},
	} {
		if p.is {
			parts = append(parts, p.what)
		}
	}
	return strings.Join(parts, ", ") + " changed"
}

// readDir returns the names in the directory fd, unsorted.
func readDir(fd int, buf []byte) ([]string, error) {
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("getdents64", err)
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func readlinkAt(dir int, name string) (string, error) {
	var buf [4096]byte
	for {
		n, err := unix.Readlinkat(dir, name, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", os.NewSyscallError("readlinkat", err)
		}
		return string(buf[:n]), nil
	}
}

// procPath names an entry of an open directory for the path-only attribute
// calls: the descriptor pins the directory, and the last part is not followed.
func procPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }
