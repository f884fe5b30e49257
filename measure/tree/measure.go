// Package tree measures what is on disk: a layer's directory, a cumulative tree
// or an image file, and binds the result so that a later start need not hash
// again. docs/layer-digest.md says what is measured and what each class of
// binding holds against.
package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
)

// Options of Measure.
type Options struct {
	// Want is the reference: a layer's manifest, or a Merge for Native. Without
	// it the directory is only described, and no directory is implied.
	Want *layer.Manifest
	// Workers is the number of files hashed at a time; 0 is one a CPU.
	Workers int
	// Progress is called now and then from one goroutine, and once in the end,
	// with the regular files and bytes hashed so far.
	Progress func(files, bytes int64)
	// Native measures a cumulative tree of the native snapshotter instead of an
	// overlay layer: see layer.Merge for what such a copy does not keep.
	Native bool
	// UserXattr is set for layers mounted with overlay's option userxattr,
	// whose marks are spelled user.overlay.
	UserXattr bool
	// CopiedUp is set for a layer that was made through an overlay mount and not
	// by unpacking: it has the marks of copying up.
	CopiedUp bool
}

// Result of Measure.
type Result struct {
	// Manifest is what was found. Its digest equals the reference's when
	// Differences is empty. Where the tree has something that no layer may have,
	// the manifest holds it, is not canonical and has a digest no layer has.
	Manifest *layer.Manifest
	// Differences lists, by path, what differs from the reference and what no
	// layer may have, such as overlay's redirect marks.
	Differences []layer.Difference
	// Implied holds the attributes of the directories that are Implied in
	// Manifest, for layer.CheckImplied.
	Implied []layer.Record
	// Binding lets later starts find out that nothing moved. Never nil.
	Binding *Binding
	// Files and Bytes count the regular files that were hashed, one an inode.
	Files, Bytes int64
}

// Measure describes the tree at dir and compares it with o.Want. The directory
// is opened once; everything below is reached through descriptors, without
// following links or crossing mounts. An entry that changes meanwhile is a
// Difference; an error means that something could not be read or ctx ended.
func Measure(ctx context.Context, dir string, o Options) (*Result, error) {
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	m := &measurer{Options: o, ctx: ctx, root: root, clock: clockEpoch(), before: coarseNow()}
	stop := m.reportProgress()
	defer stop()
	if err := m.walk(); err != nil {
		return nil, fmt.Errorf("measuring %s: %w", dir, err)
	}
	if err := m.hashAll(); err != nil {
		return nil, fmt.Errorf("measuring %s: %w", dir, err)
	}
	res, err := m.result(dir)
	if err != nil {
		return nil, fmt.Errorf("measuring %s: %w", dir, err)
	}
	return res, nil
}

func openRoot(dir string) (int, error) {
	for {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		return fd, nil
	}
}

// measurer is one run of Measure.
type measurer struct {
	Options
	ctx    context.Context
	root   int
	clock  uint64 // the clock's epoch when measuring began
	before int64  // coarseNow when measuring began

	rootID    identity
	rootMarks attributes
	dirs      []*directory // every directory, the root first
	files     []*entry     // one name of every regular inode

	hashed, bytes atomic.Int64
}

// directory is one listed directory and its entries.
type directory struct {
	path    string // "" is the root
	entries []entry
	trouble trouble
}

// entry is one name and what is known about its inode.
type entry struct {
	path  string
	name  string
	id    identity
	nlink uint32
	rec   layer.Record
	attrs attributes
	trouble
}

// trouble keeps an entry, or the whole tree, from being bound or equal.
type trouble struct {
	unbound string             // why this entry cannot be bound
	diffs   []layer.Difference // what no layer may have
	gone    bool               // it vanished while it was measured
}

func (t *trouble) differs(path, kind, found string) {
	t.diffs = append(t.diffs, layer.Difference{Path: path, Kind: kind, Found: found})
}

// reportProgress calls Progress ten times a second until the returned function
// is called, which makes the last call.
func (m *measurer) reportProgress() func() {
	if m.Progress == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				m.Progress(m.hashed.Load(), m.bytes.Load())
			case <-done:
				m.Progress(m.hashed.Load(), m.bytes.Load())
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// result assembles manifest, differences and binding.
func (m *measurer) result(dir string) (*Result, error) {
	res := &Result{Files: m.hashed.Load(), Bytes: m.bytes.Load()}
	found := &layer.Manifest{Tree: m.Native}
	diffs := m.rootMarks.diffs
	if m.rootMarks.opaque {
		if m.Native {
			diffs = append(diffs, layer.Difference{Kind: layer.KindOpaque, Found: "opaque"})
		} else {
			found.Records = append(found.Records, layer.Record{Type: layer.Implied, Opaque: true})
		}
	}
	implied := map[string]bool{}
	if m.Want != nil {
		implied = m.Want.Implied()
	}
	for _, d := range m.dirs {
		diffs = append(diffs, d.trouble.diffs...)
		for i := range d.entries {
			e := &d.entries[i]
			diffs = append(append(diffs, e.diffs...), e.attrs.diffs...)
			if e.gone || e.rec.Type == 0 {
				continue
			}
			r := e.rec
			if implied[r.Path] && r.Type == layer.Dir {
				res.Implied = append(res.Implied, r)
				r = layer.Record{Path: r.Path, Type: layer.Implied, Opaque: r.Opaque}
			}
			found.Records = append(found.Records, r)
		}
	}
	if len(found.Records) > layer.MaxRecords {
		return nil, fmt.Errorf("%d entries: the limit is %d", len(found.Records), layer.MaxRecords)
	}
	found.Sort()
	diffs = append(diffs, m.groupLinks(found)...)
	if err := found.Validate(); err != nil && len(diffs) == 0 {
		return nil, err
	}
	if m.Want != nil {
		diffs = append(diffs, layer.Compare(m.Want, found)...)
	}
	m.spoil(found)
	slices.SortStableFunc(diffs, func(a, b layer.Difference) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(res.Implied, func(a, b layer.Record) int { return strings.Compare(a.Path, b.Path) })
	res.Manifest, res.Differences = found, diffs
	res.Binding = m.bind(dir)
	return res, nil
}

func (m *measurer) spoil(found *layer.Manifest) {
	spoil(found, layer.Record{Type: layer.Dir}, m.rootMarks.refused)
	for _, d := range m.dirs {
		for i := range d.entries {
			e := &d.entries[i]
			spoil(found, e.rec, e.attrs.refused)
		}
	}
}
