package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxConfig bounds config.json. containerd's own messages end at 16 MiB.
const maxConfig = 16 << 20

// ReadConfig reads the config.json of the bundle directory dir, once, through
// descriptors: neither it nor the directory may be a symbolic link, it must be
// a regular file of this user's, and its size is bounded. Its error is of class
// errdefs.ErrInvalidArgument where the bundle is at fault.
func ReadConfig(dir string) ([]byte, error) {
	d, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w: %w", dir, err, errdefs.ErrInvalidArgument)
	}
	defer unix.Close(d)
	path := filepath.Join(dir, "config.json")
	// O_NONBLOCK: a fifo in its place must not stop the shim.
	fd, err := unix.Openat(d, "config.json", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("%s is a symbolic link: %w", path, errdefs.ErrInvalidArgument)
		}
		return nil, fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s is not a regular file: %w", path, errdefs.ErrInvalidArgument)
	case int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s belongs to user %d, not to %d: %w", path, st.Uid, os.Geteuid(), errdefs.ErrInvalidArgument)
	case st.Size > maxConfig:
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read: %w", path, st.Size, maxConfig, errdefs.ErrInvalidArgument)
	}
	b := make([]byte, 0, st.Size+1)
	for {
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(b) == cap(b) {
			if len(b) > maxConfig {
				return nil, fmt.Errorf("%s grew beyond %d bytes: %w", path, maxConfig, errdefs.ErrInvalidArgument)
			}
			b = append(b, 0)[:len(b)]
		}
	}
}
