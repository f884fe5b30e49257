package tree

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
)

const (
	// bufferSize keeps the bytes between read and hash in a core's own cache.
	bufferSize = 128 << 10
	// bigFile is the size from which the order of work matters for the end: one
	// file is hashed by one worker.
	bigFile = 1 << 20
)

// hashAll hashes every regular inode once and gives all its names the result.
func (m *measurer) hashAll() error {
	names := map[uint64][]*entry{} // the other names of inodes that have several
	for _, d := range m.dirs {
		for i := range d.entries {
			e := &d.entries[i]
			if e.rec.Type != layer.Regular {
				continue
			}
			if e.nlink > 1 {
				if first, ok := names[e.id.ino]; ok {
					names[e.id.ino] = append(first, e)
					continue
				}
				names[e.id.ino] = []*entry{}
			}
			m.files = append(m.files, e)
		}
	}
	// Largest first, so that no worker is left alone with a big one; the many
	// small ones in the order of their inodes, which disks like.
	slices.SortFunc(m.files, func(a, b *entry) int {
		if a.id.size >= bigFile || b.id.size >= bigFile {
			return cmp.Compare(b.id.size, a.id.size)
		}
		return cmp.Compare(a.id.ino, b.id.ino)
	})
	var next atomic.Int64
	err := parallel(m.Workers, func() error {
		h := &hasher{m: m, hash: sha256.New(), buf: make([]byte, bufferSize), xattrs: make([]byte, layer.MaxXattr)}
		for {
			i := int(next.Add(1)) - 1
			if i >= len(m.files) {
				return nil
			}
			if err := h.file(m.files[i]); err != nil {
				next.Store(int64(len(m.files)))
				return fmt.Errorf("%q: %w", m.files[i].path, err)
			}
		}
	})
	if err != nil {
		return err
	}
	for _, first := range m.files {
		for _, e := range names[first.id.ino] {
			path := e.rec.Path
			e.rec, e.unbound = first.rec, first.unbound
			e.rec.Path = path
			if !e.id.same(&first.id) {
				e.differs(path, layer.KindChanging, "another name of the inode: "+first.id.moved(&e.id))
			}
		}
	}
	return nil
}

// hasher is one worker's reusable state.
type hasher struct {
	m      *measurer
	hash   hash.Hash
	buf    []byte
	xattrs []byte
}

// file hashes one regular file under a read lease, between two stats.
func (h *hasher) file(e *entry) error {
	if err := h.m.ctx.Err(); err != nil {
		return err
	}
	fd, err := openInside(h.m.root, e.path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	switch {
	case errors.Is(err, unix.EXDEV):
		e.differs(e.path, layer.KindMount, "something is mounted here")
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		e.differs(e.path, layer.KindChanging, "it was replaced")
		return nil
	case err != nil:
		return os.NewSyscallError("openat2", err)
	}
	defer unix.Close(fd)

	// The lease comes first: once it is held, nobody has the inode open or
	// mapped for writing, and who wants to must wait for us.
	lease := takeLease(fd)
	var st unix.Statx_t
	if err := h.m.settled(fd, &st); err != nil {
		return err
	}
	if now := identityOf(&st); !now.same(&e.id) {
		e.differs(e.path, layer.KindChanging, "since it was listed: "+e.id.moved(&now))
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil
		}
	}
	if h.m.fresh(&e.id) {
		e.unbound = "its ctime lies in the future"
	}
	n, err := h.content(fd, e)
	if err != nil {
		return err
	}
	if e.attrs, err = readAttributes(attributeSource{fd: fd}, e.path, false, &h.m.Options, h.xattrs); err != nil {
		return err
	}
	e.rec.Xattrs = e.attrs.kept
	if err := statFD(fd, &st); err != nil {
		return os.NewSyscallError("statx", err)
	}
	if after := identityOf(&st); !after.same(&e.id) || n != e.rec.Size {
		e.differs(e.path, layer.KindChanging, "while it was hashed: "+e.id.moved(&after))
	}
	if lease == nil {
		lease = leaseHeld(fd)
	}
	if lease != nil {
		e.unbound = lease.Error()
	}
	h.m.hashed.Add(1)
	return nil
}

func (h *hasher) content(fd int, e *entry) (int64, error) {
	h.hash.Reset()
	if e.rec.Size > bufferSize {
		// Advice only: an error changes nothing but speed.
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_SEQUENTIAL)
	}
	var n int64
	for n < e.rec.Size {
		k, err := unix.Read(fd, h.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return n, os.NewSyscallError("read", err)
		}
		if k == 0 {
			break // shorter than it was: the caller compares
		}
		h.hash.Write(h.buf[:k])
		n += int64(k)
		h.m.bytes.Add(int64(k))
		if err := h.m.ctx.Err(); err != nil {
			return n, err
		}
	}
	h.hash.Sum(e.rec.Content[:0])
	return n, nil
}

// takeLease takes a read lease, which the kernel gives only while nobody has
// the inode open for writing; a writable mapping counts (fcntl(2), F_SETLEASE).
// The lease ends with the descriptor. nil is success; the error is for people.
func takeLease(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EAGAIN):
		return errWriter
	}
	return fmt.Errorf("no read lease: %w", err)
}

var errWriter = errors.New("somebody has it open or mapped for writing")

// leaseHeld reports whether the lease was kept: the kernel shows the state a
// waiting writer asks for.
func leaseHeld(fd int) error {
	got, err := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0)
	if err != nil {
		return fmt.Errorf("read lease: %w", err)
	}
	if got != unix.F_RDLCK {
		return errWriter
	}
	return nil
}
