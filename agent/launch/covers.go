package launch

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links the kernel follows in one path
// (path_resolution(7)).
const maxLinks = 40

// inImage says whether the image has something at a destination, as the
// container will resolve it: a link in one layer may lead to a file of another.
// lowers are the layers' directories, topmost first. Where a layer hides what is
// below it in ways that need more than a name to see, the answer is yes.
func inImage(lowers []string, destination string) bool {
	var fds []int
	for _, l := range lowers {
		if fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
	}
	at, rest, links := "/", path.Clean("/"+destination), 0
	for rest != "/" && rest != "" {
		var name string
		name, rest, _ = strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, name)
		target, kind := lookup(fds, next)
		switch kind {
		case 0:
			return false
		case unix.S_IFLNK:
			if links++; links > maxLinks {
				return true
			}
			if path.IsAbs(target) {
				at = "/"
			}
			rest = target + "/" + rest
		default:
			at = next
		}
	}
	return true
}

// lookup finds p, whose directories hold no link, in the topmost layer that
// has it: its file type, 0 where none has it or a whiteout hides it, and the
// target of a link.
func lookup(fds []int, p string) (target string, kind uint32) {
	for _, root := range fds {
		fd, err := unix.Openat2(root, strings.TrimPrefix(p, "/"), &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
		if err != nil {
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EXDEV) {
				continue
			}
			return "", unix.S_IFREG // what cannot be looked at counts as there
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			buf := make([]byte, unix.PathMax)
			var n int
			if n, err = unix.Readlinkat(fd, "", buf); err == nil {
				target = string(buf[:n])
			}
		}
		unix.Close(fd)
		switch {
		case err != nil:
			return "", unix.S_IFREG
		case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
			return "", 0
		}
		return target, st.Mode & unix.S_IFMT
	}
	return "", 0
}
