package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is where a host's policies are.
const Dir = "/etc/sealift/policy.d"

// maxFiles bounds how many policies a directory may hold.
const maxFiles = 1024

// LoadDir reads every *.yaml of dir. A directory that does not exist holds no
// policy. Everything that looks like a policy and cannot be taken as one is an
// error, for a file that is silently left out is a rule silently not held; the
// error is an Errors that lists all of them.
//
// Files whose names begin with a dot or end in anything but .yaml, .yml, .json
// or a case variant of these are not policies and are passed over.
func LoadDir(dir string) (*Set, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Set{}, nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil, Errors{{File: dir, Message: "is not a directory", Hint: "make it a directory; symbolic links are not followed here"}}
	case err != nil:
		return nil, fmt.Errorf("policy directory: %w", &fs.PathError{Op: "open", Path: dir, Err: err})
	}
	d := os.NewFile(uintptr(fd), dir)
	defer d.Close()
	if e := trusted(d, dir, unix.S_IFDIR); e != nil {
		return nil, Errors{e}
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("policy directory: %w", err)
	}
	slices.Sort(names)
	var policies []*Policy
	var errs Errors
	for _, name := range names {
		file := filepath.Join(dir, name)
		switch ext := strings.ToLower(filepath.Ext(name)); {
		case strings.HasPrefix(name, "."):
			continue
		case filepath.Ext(name) == ".yaml":
		case ext == ".yaml" || ext == ".yml" || ext == ".json":
			errs = append(errs, &Error{File: file, Message: "is not read under this name", Hint: "name it *.yaml, or move it away"})
			continue
		default:
			continue
		}
		if len(policies) == maxFiles {
			errs = append(errs, &Error{File: dir, Message: fmt.Sprintf("holds more than %d policies", maxFiles)})
			break
		}
		p, err := loadAt(int(d.Fd()), name, file)
		if es := AsErrors(err); es != nil {
			errs = append(errs, es...)
			continue
		}
		if err != nil {
			return nil, err
		}
		policies = append(policies, p)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return NewSet(policies...)
}

// LoadFile reads one policy under the same rules as LoadDir.
func LoadFile(file string) (*Policy, error) { return loadAt(unix.AT_FDCWD, file, file) }

// loadAt opens, checks and reads one file through one descriptor, so that what
// was checked is what is read.
func loadAt(dir int, name, file string) (*Policy, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, &Error{File: file, Message: "is a symbolic link", Hint: "put the file itself here: a link's target can be changed by others"}
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", &fs.PathError{Op: "open", Path: file, Err: err})
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	if e := trusted(f, file, unix.S_IFREG); e != nil {
		return nil, e
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", file, err)
	}
	return Parse(file, data)
}

// trusted refuses what others than root and the reader could have written.
func trusted(f *os.File, name string, kind uint32) *Error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &Error{File: name, Message: "stat: " + err.Error()}
	}
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return &Error{File: name, Message: "is not a regular file", Hint: "policies are plain files"}
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return &Error{File: name, Message: fmt.Sprintf("belongs to uid %d", st.Uid), Hint: "chown root " + name}
	case st.Mode&0o022 != 0:
		return &Error{File: name, Message: fmt.Sprintf("can be written by others than its owner (mode %04o)", st.Mode&0o7777), Hint: "chmod go-w " + name}
	}
	return nil
}
