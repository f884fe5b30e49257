package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// Layers remembers what directories measured to, for as long as a binding says
// that they still do.
type Layers struct {
	workers int
	flight  singleflight.Group
	mu      sync.Mutex
	bound   map[string]*bound
	serial  uint64
	// judged are the chains, by their layers' serials, whose implied directories
	// were found right.
	judged map[string]bool
	remaps remaps
}

type bound struct {
	dev, ino uint64
	digest   layer.Digest
	binding  *tree.Binding
	implied  []layer.Record
	// serial is this binding's own: one made later has another.
	serial uint64
}

// Measured is what one directory is.
type Measured struct {
	// Digest is of the layer form, Tree of the cumulative form (Options.Native).
	Digest layer.Digest
	Tree   layer.TreeDigest
	// Implied are the attributes of directories that the layer's tar does not name.
	Implied []layer.Record
	Class   tree.Class
	// Why says why the class is none.
	Why string
	// Hashed is false when a binding spared the hashing.
	Hashed bool
	// serial names the binding; 0 where nothing is bound.
	serial uint64
	// Differences from the reference, when the digest is not the reference's.
	Differences []layer.Difference
}

// NewLayers makes an empty memory; workers 0 hashes on all cores.
func NewLayers(workers int) *Layers {
	return &Layers{workers: workers, bound: map[string]*bound{}, judged: map[string]bool{}}
}

// Options say how a directory is to be measured.
type Options struct {
	// Wanted is the reference, and Want returns its manifest; it is called only
	// for hashing.
	Wanted layer.Digest
	Want   func() (*layer.Manifest, error)
	// Blob says that the path is an EROFS image and no directory.
	Blob   bool
	Native bool
	// CopiedUp says that the layer was made through a mount, not by unpacking.
	CopiedUp bool
	Force    bool
	Progress func(files, bytes int64)
}

// Measure returns what the layer at path measures to. Concurrent calls for one
// layer hash it once.
func (l *Layers) Measure(ctx context.Context, dir string, o Options) (*Measured, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("layer %s: %w", dir, err)
	}
	if !o.Force {
		m, err := l.recheck(ctx, dir, &st)
		if err != nil {
			return nil, err
		}
		// One that is bound to something else is hashed again, to say which files
		// differ from what is wanted now.
		if m != nil && m.Digest == o.Wanted {
			return m, nil
		}
	}
	select {
	case r := <-l.flight.DoChan(dir+" "+o.Wanted.String(), func() (any, error) { return l.hash(context.WithoutCancel(ctx), dir, o) }):
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Measured), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// recheck answers from a binding, or not at all.
func (l *Layers) recheck(ctx context.Context, dir string, st *unix.Stat_t) (*Measured, error) {
	l.mu.Lock()
	b := l.bound[dir]
	l.mu.Unlock()
	if b == nil {
		return nil, nil
	}
	var moved *tree.MovedError
	err := error(nil)
	if b.dev == uint64(st.Dev) && b.ino == st.Ino {
		err = b.binding.Check(ctx)
		if err == nil {
			return &Measured{Digest: b.digest, Class: b.binding.Class(), Implied: b.implied, serial: b.serial}, nil
		}
		if !errors.As(err, &moved) {
			return nil, fmt.Errorf("layer %s: %w", dir, err)
		}
	}
	l.drop(dir, b)
	return nil, nil
}

func (l *Layers) drop(dir string, b *bound) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bound[dir] == b {
		delete(l.bound, dir)
		release(b)
	}
}

// release gives back what a binding holds: of a blob, its file and lease.
func release(b *bound) {
	if err := b.binding.Close(); err != nil {
		slog.Warn("closing a binding", "err", err)
	}
}

// Prune drops the bindings of layers that are gone.
func (l *Layers) Prune() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for dir, b := range l.bound {
		var st unix.Stat_t
		if unix.Lstat(dir, &st) != nil || uint64(st.Dev) != b.dev || st.Ino != b.ino {
			delete(l.bound, dir)
			release(b)
		}
	}
}

func (l *Layers) hash(ctx context.Context, dir string, o Options) (*Measured, error) {
	var want *layer.Manifest
	if o.Want != nil {
		var err error
		if want, err = o.Want(); err != nil {
			return nil, err
		}
	}
	measure := tree.Measure
	if o.Blob {
		measure = tree.MeasureBlob
	}
	res, err := measure(ctx, dir, tree.Options{Want: want, Workers: l.workers, Native: o.Native, CopiedUp: o.CopiedUp, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	keep := false
	defer func() {
		if !keep {
			release(&bound{binding: res.Binding})
		}
	}()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("layer %s: %w", dir, err)
	}
	m := &Measured{Implied: res.Implied, Class: res.Binding.Class(), Why: res.Binding.Reason(), Hashed: true, Differences: res.Differences}
	if o.Native {
		// The tree is one container's own, and about to change.
		m.Tree = res.Manifest.TreeDigest()
		return m, nil
	}
	m.Digest = res.Manifest.Digest()
	if m.Class != tree.ClassNone && len(m.Differences) == 0 {
		l.mu.Lock()
		if old := l.bound[dir]; old != nil {
			release(old)
		}
		keep = true
		l.serial++
		m.serial = l.serial
		l.bound[dir] = &bound{dev: uint64(st.Dev), ino: st.Ino, digest: m.Digest, binding: res.Binding, implied: res.Implied, serial: l.serial}
		l.mu.Unlock()
	}
	return m, nil
}

// chainKey names a chain of bound layers; it is empty when one is not bound.
func chainKey(measured []*Measured) string {
	var b strings.Builder
	for _, m := range measured {
		if m == nil || m.serial == 0 {
			return ""
		}
		fmt.Fprintf(&b, "%d ", m.serial)
	}
	return b.String()
}

// maxJudged bounds the memory of chains; it is forgotten as a whole.
const maxJudged = 8192

func (l *Layers) isJudged(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return key != "" && l.judged[key]
}

func (l *Layers) setJudged(key string) {
	if key == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.judged) >= maxJudged {
		clear(l.judged)
	}
	l.judged[key] = true
}

// classes are the binding classes, weakest first.
var classes = []tree.Class{tree.ClassNone, tree.ClassTree, tree.ClassBlob, tree.ClassVerity}

// weaker returns the weaker of two classes; an empty one says nothing.
func weaker(a, b tree.Class) tree.Class {
	if a == "" || (b != "" && slices.Index(classes, b) < slices.Index(classes, a)) {
		return b
	}
	return a
}
