package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Class says how a measured thing is bound to what is there later.
type Class string

// The classes, strongest first. docs/layer-digest.md has the table of what each
// one catches.
const (
	ClassVerity Class = "verity" // the kernel checks every read against a digest
	ClassBlob   Class = "blob"   // one image file under a read lease that is held
	ClassTree   Class = "tree"   // every entry's identity is looked at again
	ClassNone   Class = "none"   // measure again
)

// Binding is what later starts check instead of hashing. It is safe for
// concurrent use.
type Binding struct {
	class  Class
	reason string

	dir   string
	clock uint64
	root  identity
	// names holds every name and directory path, each ended by a NUL, so that
	// the kernel can read them in place.
	names []byte
	ids   []identity
	dirs  []dirSpan
	blob  *blobBinding
}

// dirSpan is one directory: where its path is, and its entries in ids.
type dirSpan struct{ path, first, count uint32 }

// Class returns how strongly the binding holds.
func (b *Binding) Class() Class { return b.class }

// Reason says why the class is none; it is empty otherwise.
func (b *Binding) Reason() string { return b.reason }

// Close gives back what the binding holds: a blob's descriptor and lease. Check
// fails afterwards. It may be called more than once.
func (b *Binding) Close() error {
	if b.blob == nil {
		return nil
	}
	return b.blob.close()
}

// MovedError is Check's verdict that what was measured may not be what is there.
type MovedError struct {
	Path string // relative to the tree; empty for the tree as a whole
	What string
}

// Error names the entry and what moved.
func (e *MovedError) Error() string {
	if e.Path == "" {
		return "measured tree: " + e.What
	}
	return fmt.Sprintf("measured tree: %q: %s", e.Path, e.What)
}

// ErrUnbound is returned by Check of a binding of class none.
var ErrUnbound = errors.New("not bound: measure again")

// bind makes the binding of what was measured. Anything that was unstable, or
// could change without showing, makes the class none.
func (m *measurer) bind(dir string) *Binding {
	b := &Binding{class: ClassTree, dir: dir, clock: m.clock, root: m.rootID}
	refuse := func(path, why string) {
		if b.reason == "" {
			b.class, b.reason = ClassNone, fmt.Sprintf("%q: %s", path, why)
		}
	}
	if m.clock == 0 {
		refuse("", "steps of the wall clock cannot be watched")
	}
	for _, d := range m.dirs {
		if len(d.trouble.diffs) > 0 {
			refuse(d.path, d.trouble.diffs[0].Kind)
		}
		span := dirSpan{path: b.intern(d.path), first: uint32(len(b.ids)), count: uint32(len(d.entries))}
		for i := range d.entries {
			e := &d.entries[i]
			switch {
			case e.gone || len(e.diffs) > 0:
				refuse(e.path, "it changed while it was measured, or cannot be in a layer")
			case e.unbound != "":
				refuse(e.path, e.unbound)
			case m.fresh(&e.id):
				refuse(e.path, "its ctime lies in the future")
			}
			id := e.id
			id.name = b.intern(e.name)
			b.ids = append(b.ids, id)
		}
		b.dirs = append(b.dirs, span)
	}
	if m.fresh(&m.rootID) {
		refuse("", "its ctime lies in the future")
	}
	if b.class == ClassNone {
		return &Binding{class: b.class, reason: b.reason, dir: dir}
	}
	// Bindings live long and there are many: no spare room.
	b.names, b.ids, b.dirs = bytes.Clone(b.names), slices.Clone(b.ids), slices.Clone(b.dirs)
	return b
}

func (b *Binding) intern(s string) uint32 {
	at := uint32(len(b.names))
	b.names = append(append(b.names, s...), 0)
	return at
}

func (b *Binding) text(at uint32) string {
	return string(b.names[at : int(at)+bytes.IndexByte(b.names[at:], 0)])
}

// Check reports whether everything is as it was when it was measured. nil means
// that no entry moved, came or went; a *MovedError names the first that did;
// ErrUnbound, wrapped, means that there is nothing to check. Other errors mean
// that it could not be found out. Cost: one statx an entry.
func (b *Binding) Check(ctx context.Context) error {
	switch {
	case b.class == ClassNone:
		return fmt.Errorf("%w: %s", ErrUnbound, b.reason)
	case b.blob != nil:
		return b.blob.check(b.clock)
	case clockEpoch() != b.clock:
		return &MovedError{What: "the wall clock was set since: change times prove nothing"}
	}
	root, err := openRoot(b.dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return &MovedError{What: "the directory is gone"}
		}
		return err
	}
	defer unix.Close(root)
	var st unix.Statx_t
	if err := statFD(root, &st); err != nil {
		return fmt.Errorf("%s: %w", b.dir, os.NewSyscallError("statx", err))
	}
	if now := identityOf(&st); !now.same(&b.root) {
		return &MovedError{What: "its root: " + b.root.moved(&now)}
	}
	var next atomic.Int64
	return parallel(min(runtime.GOMAXPROCS(0), 1+len(b.ids)/2048), func() error {
		for ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(b.dirs) {
				return nil
			}
			if err := b.checkDir(root, &b.dirs[i]); err != nil {
				next.Store(int64(len(b.dirs)))
				return err
			}
		}
		return ctx.Err()
	})
}

// checkDir stats the entries of one directory. That none was added needs no
// listing: it would have moved the directory's own times, and those are among
// the entries of its parent, or the root's.
func (b *Binding) checkDir(root int, d *dirSpan) error {
	path := b.text(d.path)
	if d.count == 0 {
		return nil
	}
	dir, err := openInside(root, path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return b.lookupError(path, err)
	}
	defer unix.Close(dir)
	var st unix.Statx_t
	for i := d.first; i < d.first+d.count; i++ {
		id := &b.ids[i]
		if err := statxRaw(dir, &b.names[id.name], 0, &st); err != nil {
			return b.lookupError(join(path, b.text(id.name)), err)
		}
		if now := identityOf(&st); !now.same(id) {
			return &MovedError{Path: join(path, b.text(id.name)), What: id.moved(&now)}
		}
		if mountRoot(&st) {
			return &MovedError{Path: join(path, b.text(id.name)), What: "something was mounted on it"}
		}
	}
	return nil
}

func (b *Binding) lookupError(path string, err error) error {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, e) {
			return &MovedError{Path: path, What: "it is gone or was replaced: " + err.Error()}
		}
	}
	return &os.PathError{Op: "stat", Path: b.dir + "/" + path, Err: err}
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
