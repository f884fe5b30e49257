// Package owned opens files that nobody but root and the reader can have
// written: what is configuration to Sealift must not be somebody else's.
//
// Symbolic links are not followed in the last element, and the checks are made
// on the open descriptor, so that what was checked is what is read.
package owned

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Error says why a file is not taken.
type Error struct {
	Path    string
	Message string
	Hint    string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s\nhint: %s", e.Path, e.Message, e.Hint) }

// OpenDir opens a directory. Its error is an *Error when the directory is not
// to be trusted, and a *fs.PathError otherwise.
func OpenDir(path string) (*os.File, error) {
	return open(unix.AT_FDCWD, path, path, unix.O_DIRECTORY, unix.S_IFDIR)
}

// Open opens a regular file, with errors as OpenDir's.
func Open(path string) (*os.File, error) {
	return open(unix.AT_FDCWD, path, path, unix.O_NONBLOCK, unix.S_IFREG)
}

// OpenIn opens a regular file of an open directory, with errors as OpenDir's;
// path names it in them.
func OpenIn(dir *os.File, name, path string) (*os.File, error) {
	return open(int(dir.Fd()), name, path, unix.O_NONBLOCK, unix.S_IFREG)
}

// Read reads all of f and returns an *Error if it is longer than limit.
func Read(f *os.File, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &Error{Path: f.Name(), Message: fmt.Sprintf("is more than %d bytes long", limit), Hint: "split it"}
	}
	return data, nil
}

func open(at int, name, path string, flags int, kind uint32) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
	what := "regular file"
	if kind == unix.S_IFDIR {
		what = "directory"
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, &Error{Path: path, Message: "is a symbolic link", Hint: "put the " + what + " itself here: a link's target can be changed by others"}
	case errors.Is(err, unix.ENOTDIR):
		return nil, &Error{Path: path, Message: "is not a directory, or a symbolic link to one", Hint: "make it a directory"}
	case errors.Is(err, unix.ENXIO): // a socket
		return nil, &Error{Path: path, Message: "is not a " + what, Hint: "move it away"}
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := check(f, path, what, kind); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func check(f *os.File, path, what string, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return &Error{Path: path, Message: "is not a " + what, Hint: "move it away"}
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return &Error{Path: path, Message: fmt.Sprintf("belongs to uid %d", st.Uid), Hint: "chown root " + path}
	case st.Mode&0o022 != 0:
		return &Error{Path: path, Message: fmt.Sprintf("can be written by others than its owner (mode %04o)", st.Mode&0o7777), Hint: "chmod go-w " + path}
	}
	return nil
}
