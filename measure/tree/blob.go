package tree

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
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

// bindBlob begins a binding of f: fs-verity where it has it, else a lease, which
// is taken before anything is read.
func bindBlob(f *os.File, path string) (*Binding, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	bb := &blobBinding{fd: fd, path: path}
	b := &Binding{class: ClassBlob, dir: path, clock: clockEpoch(), blob: bb}
	switch v, err := MeasureVerity(fd); {
	case err == nil:
		b.class, bb.verity = ClassVerity, &v
	case !errors.Is(err, ErrNoVerity) && !errors.Is(err, errors.ErrUnsupported):
		return nil, errors.Join(err, b.Close())
	default:
		if err := takeLease(fd); err != nil {
			b.class, b.reason = ClassNone, err.Error()
		}
	}
	m := &measurer{before: coarseNow()}
	var st unix.Statx_t
	if err := m.settled(fd, &st); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(errors.New("not a regular file"), b.Close())
	}
	bb.id = identityOf(&st)
	if b.class == ClassBlob && m.fresh(&bb.id) {
		b.class, b.reason = ClassNone, "its ctime lies in the future"
	}
	if b.class == ClassBlob && b.clock == 0 {
		b.class, b.reason = ClassNone, "steps of the wall clock cannot be watched"
	}
	return b, nil
}

func (b *Binding) size() uint64 { return b.blob.id.size }

// settleBlob ends measuring: an image that changed under it is a difference, and
// without a binding the file is not kept open.
func (b *Binding) settleBlob(res *Result) error {
	var st unix.Statx_t
	if err := statFD(b.blob.fd, &st); err != nil {
		return os.NewSyscallError("statx", err)
	}
	if now := identityOf(&st); !now.same(&b.blob.id) {
		res.Differences = append(res.Differences, layer.Difference{Kind: layer.KindChanging, Found: "the image: " + b.blob.id.moved(&now)})
		b.class, b.reason = ClassNone, "it changed while it was measured"
	}
	if b.class == ClassBlob {
		if err := leaseHeld(b.blob.fd); err != nil {
			b.class, b.reason = ClassNone, err.Error()
		}
	}
	if b.class == ClassNone {
		return b.Close()
	}
	return nil
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
		// Somebody waits to write; nothing is gained by letting them wait longer.
		_, release := unix.FcntlInt(uintptr(b.fd), unix.F_SETLEASE, unix.F_UNLCK)
		return errors.Join(moved("%v", err), release)
	}
	return nil
}
