package tree

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// blobBinding keeps one image file open under a read lease. As long as the
// lease is held nobody can open the file for writing.
type blobBinding struct {
	mu     sync.Mutex
	fd     int
	path   string
	id     identity
	verity *VerityDigest // class verity: what the kernel checks reads against
}

func (b *blobBinding) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd < 0 {
		return nil
	}
	fd := b.fd
	b.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

// check looks at the open file and at what the path names now.
func (b *blobBinding) check(clock uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd < 0 {
		return fmt.Errorf("%w: the binding is closed", ErrUnbound)
	}
	moved := func(format string, args ...any) error {
		return &MovedError{What: "image file " + b.path + ": " + fmt.Sprintf(format, args...)}
	}
	var st, named unix.Statx_t
	if err := statFD(b.fd, &st); err != nil {
		return fmt.Errorf("%s: %w", b.path, os.NewSyscallError("statx", err))
	}
	err := unix.Statx(unix.AT_FDCWD, b.path, 0, statxMask, &named)
	if errors.Is(err, unix.ENOENT) {
		return moved("it is gone")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.path, os.NewSyscallError("statx", err))
	}
	if named.Ino != st.Ino || named.Dev_major != st.Dev_major || named.Dev_minor != st.Dev_minor {
		return moved("it was replaced")
	}
	if b.verity != nil {
		now, err := MeasureVerity(b.fd)
		if err != nil {
			return fmt.Errorf("%s: %w", b.path, err)
		}
		if now != *b.verity {
			return moved("fs-verity digest %s, was %s", now, *b.verity)
		}
		return nil
	}
	if now := identityOf(&st); !now.same(&b.id) {
		return moved("%s", b.id.moved(&now))
	}
	if clockEpoch() != clock {
		return moved("the wall clock was set since")
	}
	if err := leaseHeld(b.fd); err != nil {
		return moved("%v", err)
	}
	return nil
}
