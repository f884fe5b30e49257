package tree

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
)

// walk lists every directory below the root, several at a time.
func (m *measurer) walk() error {
	q := &queue{}
	q.cond.L = &q.mu
	q.push(nil)
	return parallel(m.Workers, func() error {
		w := &walker{m: m, xattrs: make([]byte, layer.MaxXattr), dirents: make([]byte, 32<<10)}
		for {
			e, ok := q.pop()
			if !ok {
				return nil
			}
			d, subdirs, err := w.list(e)
			if err == nil {
				err = m.ctx.Err()
			}
			if err != nil {
				q.abort()
				return err
			}
			q.done(d, subdirs, m)
		}
	})
}

// parallel runs f in n goroutines and returns the first error.
func parallel(n int, f func() error) error {
	errs := make(chan error, n)
	for range n {
		go func() { errs <- f() }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// queue hands directories to walkers and knows when none is left. The root is
// nil: it has no entry.
type queue struct {
	mu      sync.Mutex
	cond    sync.Cond
	todo    []*entry
	working int
	aborted bool
}

func (q *queue) push(e *entry) { q.todo = append(q.todo, e) }

func (q *queue) pop() (*entry, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.todo) == 0 && q.working > 0 && !q.aborted {
		q.cond.Wait()
	}
	if q.aborted || len(q.todo) == 0 {
		return nil, false
	}
	e := q.todo[len(q.todo)-1]
	q.todo = q.todo[:len(q.todo)-1]
	q.working++
	return e, true
}

func (q *queue) done(d *directory, subdirs []*entry, m *measurer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m.dirs = append(m.dirs, d)
	q.todo = append(q.todo, subdirs...)
	q.working--
	q.cond.Broadcast()
}

func (q *queue) abort() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.aborted = true
	q.cond.Broadcast()
}

type walker struct {
	m       *measurer
	xattrs  []byte
	dirents []byte
}

// list describes a directory and its entries. A subdirectory's own part is
// filled in when it is listed itself, on the descriptor that is listed.
func (w *walker) list(self *entry) (*directory, []*entry, error) {
	d := &directory{}
	if self != nil {
		d.path = self.path
	}
	fd, err := openInside(w.m.root, d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	switch {
	case errors.Is(err, unix.EXDEV):
		d.trouble.differs(d.path, layer.KindMount, "something is mounted here")
		return d, nil, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		d.trouble.differs(d.path, layer.KindChanging, "the directory was replaced")
		return d, nil, nil
	case err != nil:
		return nil, nil, &os.PathError{Op: "open", Path: d.path, Err: err}
	}
	defer unix.Close(fd)
	if err := w.describeDir(fd, self); err != nil {
		return nil, nil, fmt.Errorf("%q: %w", d.path, err)
	}
	names, err := readDir(fd, w.dirents)
	if err != nil {
		return nil, nil, fmt.Errorf("%q: %w", d.path, err)
	}
	prefix := d.path
	if prefix != "" {
		prefix += "/"
	}
	var subdirs []*entry
	d.entries = make([]entry, len(names))
	for i, name := range names {
		e := &d.entries[i]
		e.name, e.path = name, prefix+name
		if err := w.describe(fd, e); err != nil {
			return nil, nil, fmt.Errorf("%q: %w", e.path, err)
		}
		if e.rec.Type == layer.Dir {
			subdirs = append(subdirs, e)
		}
	}
	return d, subdirs, nil
}

// settled stats fd, once its ctime is past.
func (m *measurer) settled(fd int, st *unix.Statx_t) error {
	for {
		if err := statFD(fd, st); err != nil {
			return os.NewSyscallError("statx", err)
		}
		if !m.waitTick(nanoseconds(st.Ctime)) {
			return nil
		}
	}
}

// waitTick waits while ctime is the clock's current tick: a change within the
// tick need not move it. It reports whether it had to wait, which makes the stat
// that gave ctime too old. A ctime from the future is not waited for; fresh
// finds it in the end.
func (m *measurer) waitTick(ctime int64) bool {
	const longestTick = 20 * time.Millisecond
	if ctime < m.before {
		return false
	}
	waited := false
	for {
		now := coarseNow()
		if ctime < now || ctime-now > int64(longestTick) {
			return waited
		}
		time.Sleep(time.Millisecond)
		waited = true
	}
}

// fresh reports that a change just now could leave the ctime as it is.
func (m *measurer) fresh(id *identity) bool {
	return id.ctime >= m.before && id.ctime >= coarseNow()
}

// describe fills in everything about an entry that needs no reading of content.
func (w *walker) describe(dir int, e *entry) error {
	var st unix.Statx_t
	name, err := unix.BytePtrFromString(e.name)
	if err != nil {
		return err
	}
	for stat := true; stat; {
		if err := statxRaw(dir, name, 0, &st); err != nil {
			if errors.Is(err, unix.ENOENT) {
				e.gone = true
				e.differs(e.path, layer.KindChanging, "it vanished")
				return nil
			}
			return os.NewSyscallError("statx", err)
		}
		// Files and directories are stat'ed again on their descriptors.
		kind := st.Mode & unix.S_IFMT
		stat = kind != unix.S_IFREG && kind != unix.S_IFDIR && w.m.waitTick(nanoseconds(st.Ctime))
	}
	if mountRoot(&st) {
		// What is mounted says nothing about the entry below it.
		e.differs(e.path, layer.KindMount, "something is mounted here")
		return nil
	}
	e.id, e.nlink = identityOf(&st), st.Nlink
	e.rec = recordOf(e.path, &st)
	switch e.rec.Type {
	case 0:
		e.differs(e.path, layer.KindType, fmt.Sprintf("file type %#o", st.Mode&unix.S_IFMT))
	case layer.Regular, layer.Dir:
		return nil // the rest is found out on the descriptor that is read
	case layer.Whiteout:
		if w.m.Native {
			e.rec.Type = 0
			e.differs(e.path, layer.KindDevice, "character device 0:0")
		}
	default:
		return w.describeSpecial(dir, e, &st)
	}
	return nil
}

// recordOf translates a stat; Type 0 stands for a type nobody knows.
func recordOf(path string, st *unix.Statx_t) layer.Record {
	r := layer.Record{Path: path, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, MTime: st.Mtime.Sec}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		r.Type, r.Size = layer.Regular, int64(st.Size)
	case unix.S_IFDIR:
		r.Type = layer.Dir
	case unix.S_IFLNK:
		r.Type, r.Mode = layer.Symlink, 0o777
	case unix.S_IFIFO:
		r.Type = layer.FIFO
	case unix.S_IFSOCK:
		r.Type = layer.Socket
	case unix.S_IFBLK:
		r.Type, r.Major, r.Minor = layer.Block, st.Rdev_major, st.Rdev_minor
	case unix.S_IFCHR:
		if st.Rdev_major == 0 && st.Rdev_minor == 0 {
			return layer.Record{Path: path, Type: layer.Whiteout}
		}
		r.Type, r.Major, r.Minor = layer.Char, st.Rdev_major, st.Rdev_minor
	}
	return r
}

// describeDir reads the attributes of the directory fd, before it is listed,
// and waits for its tick to pass.
func (w *walker) describeDir(fd int, self *entry) error {
	var st unix.Statx_t
	if err := w.m.settled(fd, &st); err != nil {
		return err
	}
	now := identityOf(&st)
	var path string
	if self != nil {
		path = self.path
		if !now.same(&self.id) {
			self.differs(path, layer.KindChanging, "the directory: "+self.id.moved(&now))
		}
	}
	attrs, err := readAttributes(attributeSource{fd: fd}, path, true, &w.m.Options, w.xattrs)
	if err != nil {
		return err
	}
	if self == nil {
		w.m.rootID, w.m.rootMarks = now, attrs.rootOnly()
		return nil
	}
	self.attrs, self.rec.Opaque, self.rec.Xattrs = attrs, attrs.opaque, attrs.kept
	if w.m.Native {
		self.rec.MTime = 0
		if self.rec.Opaque {
			self.rec.Opaque = false
			self.differs(path, layer.KindOpaque, "opaque")
		}
	}
	return nil
}

// describeSpecial handles what must not be opened: links, devices, FIFOs, sockets.
func (w *walker) describeSpecial(dir int, e *entry, st *unix.Statx_t) error {
	var err error
	if e.rec.Type == layer.Symlink {
		if e.rec.Target, err = readlinkAt(dir, e.name); err != nil {
			return err
		}
	}
	e.attrs, err = readAttributes(attributeSource{path: procPath(dir, e.name)}, e.path, false, &w.m.Options, w.xattrs)
	if err != nil {
		return err
	}
	e.rec.Xattrs = e.attrs.kept
	var again unix.Statx_t
	name, err := unix.BytePtrFromString(e.name)
	if err != nil {
		return err
	}
	if err := statxRaw(dir, name, 0, &again); err != nil || identityOf(&again) != e.id {
		e.differs(e.path, layer.KindChanging, "replaced while it was measured")
	}
	return nil
}

// groupLinks names hard-link groups. A link count beyond the names within the
// tree is a difference where there is a reference: the unpacker makes no such
// links, a container sees the count, and whoever holds the other name can write.
func (m *measurer) groupLinks(found *layer.Manifest) []layer.Difference {
	groups := map[uint64][]*entry{}
	for _, d := range m.dirs {
		for i := range d.entries {
			if e := &d.entries[i]; e.nlink > 1 && e.rec.Type != layer.Dir && e.rec.Type != layer.Whiteout {
				groups[e.id.ino] = append(groups[e.id.ino], e)
			}
		}
	}
	var diffs []layer.Difference
	for _, names := range groups {
		first := slices.MinFunc(names, func(a, b *entry) int { return strings.Compare(a.path, b.path) })
		if outside := int(first.nlink) - len(names); outside > 0 && m.Want != nil {
			diffs = append(diffs, layer.Difference{
				Path: first.path, Kind: layer.KindHardlink,
				Wanted: fmt.Sprintf("%d names", len(names)),
				Found:  fmt.Sprintf("%d names, %d of them outside the layer", first.nlink, outside),
			})
		}
		if len(names) < 2 || (m.Native && first.rec.Type != layer.Regular) {
			continue
		}
		for _, e := range names {
			if r := found.Lookup(e.path); r != nil {
				r.Group = first.path
			}
		}
	}
	return diffs
}
