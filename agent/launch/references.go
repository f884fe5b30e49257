package launch

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/sealift/sealift/agent/inventory"
	"github.com/sealift/sealift/measure/layer"
)

// References knows what layers must measure to. What it has computed itself
// from a blob is remembered for this boot, so that a disk changed while the host
// was down teaches it nothing.
type References struct {
	// dir keeps manifests by layer digest. They check themselves: a manifest
	// that does not hash to its name is computed again.
	dir string
	// index is the file of this boot's known pairs of diffID and layer digest.
	index string

	flight singleflight.Group
	mu     sync.Mutex
	known  map[digest.Digest]layer.Digest
}

// Tars opens the uncompressed tar of a layer.
type Tars interface {
	Tar(ctx context.Context, ns string, l inventory.Layer) (*inventory.Tar, error)
}

// OpenReferences reads the index, which must lie where a reboot empties it.
func OpenReferences(dir, index string) (*References, error) {
	r := &References{dir: dir, index: index, known: map[digest.Digest]layer.Digest{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("manifest cache: %w", err)
	}
	b, err := os.ReadFile(index)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reference index: %w", err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		diffID, ld, ok := strings.Cut(line, " ")
		d, err := layer.ParseDigest(ld)
		if !ok || err != nil || digest.Digest(diffID).Validate() != nil {
			// A line torn by a crash, or damaged in another way, is computed again.
			continue
		}
		r.known[digest.Digest(diffID)] = d
	}
	return r, nil
}

// Digest returns what the layer must measure to, computing it from the blob the
// first time. Its error is an *inventory.CorruptError for a blob that is not
// what its digest says, a *layer.MeaninglessError for a tar without a meaning,
// and wraps inventory.ErrNotFound when the blob is gone and was never seen.
func (r *References) Digest(ctx context.Context, ns string, l inventory.Layer, src Tars) (layer.Digest, error) {
	if d, ok := r.lookup(l.DiffID); ok {
		return d, nil
	}
	v, err := r.once(ctx, l.DiffID.String(), func() (any, error) {
		if d, ok := r.lookup(l.DiffID); ok {
			return d, nil
		}
		m, err := r.compute(context.WithoutCancel(ctx), ns, l, src)
		if err != nil {
			return nil, err
		}
		return m.Digest(), nil
	})
	if err != nil {
		return layer.Digest{}, err
	}
	return v.(layer.Digest), nil
}

// Manifest returns the per-file manifest that hashes to want: a cached one, or
// computed from the blob. It is nil, without an error, when the blob is gone and
// no manifest is cached: then only the digest can be compared.
func (r *References) Manifest(ctx context.Context, ns string, l inventory.Layer, want layer.Digest, src Tars) (*layer.Manifest, error) {
	if m, err := r.read(want); err == nil {
		return m, nil
	}
	// The cached manifest is gone or is not itself any more.
	m, err := r.compute(ctx, ns, l, src)
	if errors.Is(err, inventory.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if m.Digest() != want {
		return nil, fmt.Errorf("layer %s: its tar measures to %s, and to %s before", l.DiffID, m.Digest(), want)
	}
	return m, nil
}

func (r *References) lookup(diffID digest.Digest) (layer.Digest, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.known[diffID]
	return d, ok
}

// Checkpoint computes the manifest of a checkpoint's writable layer, of which
// only the blob's digest is known.
func (r *References) Checkpoint(ctx context.Context, ns string, l inventory.Layer, src Tars) (*layer.Manifest, error) {
	return r.fromTar(ctx, ns, l, src)
}

func (r *References) once(ctx context.Context, key string, f func() (any, error)) (any, error) {
	select {
	case res := <-r.flight.DoChan(key, f):
		return res.Val, res.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *References) compute(ctx context.Context, ns string, l inventory.Layer, src Tars) (*layer.Manifest, error) {
	m, err := r.fromTar(ctx, ns, l, src)
	if err != nil {
		return nil, err
	}
	if err := r.write(m); err != nil {
		return nil, err
	}
	return m, r.learn(l.DiffID, m.Digest())
}

func (r *References) fromTar(ctx context.Context, ns string, l inventory.Layer, src Tars) (*layer.Manifest, error) {
	t, err := src.Tar(ctx, ns, l)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	m, perr := layer.FromTar(t)
	// A corrupt blob explains a tar that does not parse, so it is told first.
	if err := t.Verify(); err != nil {
		return nil, err
	}
	if perr != nil {
		return nil, fmt.Errorf("layer %s: %w", l.DiffID, perr)
	}
	return m, nil
}

func (r *References) learn(diffID digest.Digest, d layer.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[diffID]; ok {
		return nil
	}
	f, err := os.OpenFile(r.index, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("reference index: %w", err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s %s\n", diffID, d); err != nil {
		return fmt.Errorf("reference index: %w", err)
	}
	r.known[diffID] = d
	return nil
}

func (r *References) file(d layer.Digest) string {
	return filepath.Join(r.dir, hex.EncodeToString(d[:]))
}

func (r *References) read(d layer.Digest) (*layer.Manifest, error) {
	f, err := os.Open(r.file(d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := layer.Read(bufio.NewReaderSize(f, 1<<16))
	if err != nil {
		return nil, err
	}
	if m.Digest() != d {
		return nil, fmt.Errorf("manifest %s: does not hash to its name", f.Name())
	}
	return m, nil
}

func (r *References) write(m *layer.Manifest) (err error) {
	f, err := os.CreateTemp(r.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("manifest cache: %w", err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("manifest cache: %w", err)
		}
	}()
	w := bufio.NewWriterSize(f, 1<<16)
	if _, err := m.WriteTo(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return os.Rename(f.Name(), r.file(m.Digest()))
}

var _ io.WriterTo = (*layer.Manifest)(nil)
