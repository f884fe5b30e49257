package inventory

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/backoff"

	"github.com/sealift/sealift/measure/reference"
)

// quickBackoff lets a daemon that was restarted be found again at once.
var quickBackoff = backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond}

// blobRoot is the content store's directory, once it is known.
type blobRoot struct {
	mu   sync.Mutex
	path string
}

// metadata reads a small blob whole and checks it against its digest.
func (d *Daemon) metadata(ctx context.Context, ns string, dgst digest.Digest) ([]byte, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w", dgst, err)
	}
	rc, err := d.Blob(ctx, ns, dgst)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, maxMetadata+1))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", dgst, err)
	}
	if len(b) > maxMetadata {
		return nil, fmt.Errorf("blob %s: larger than %d bytes", dgst, maxMetadata)
	}
	if found := dgst.Algorithm().FromBytes(b); found != dgst {
		return nil, &CorruptError{Wanted: dgst, Found: found}
	}
	return b, nil
}

// CorruptError is a blob that is not what its digest says.
type CorruptError struct {
	Wanted, Found digest.Digest
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("blob %s: its content is %s\nhint: remove the image and pull it again", e.Wanted, e.Found)
}

// Blob opens a blob for reading; its bytes are not checked. Where the content
// store's directory can be reached it is read from there, else through
// containerd. Its error wraps ErrNotFound when the blob is not there.
func (d *Daemon) Blob(ctx context.Context, ns string, dgst digest.Digest) (io.ReadCloser, error) {
	// The namespace must have the blob even where the file is shared.
	ictx, cancel := d.request(ctx, ns)
	_, err := d.content().Info(ictx, &contentapi.InfoRequest{Digest: dgst.String()})
	cancel()
	if err != nil {
		return nil, d.wrap("blob "+dgst.String(), err)
	}
	if root := d.contentRoot(ctx); root != "" {
		f, err := os.Open(blobFile(root, dgst))
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("blob %s: %w", dgst, err)
		}
	}
	rctx, cancel := context.WithCancel(namespaces.WithNamespace(ctx, ns))
	s, err := d.content().Read(rctx, &contentapi.ReadContentRequest{Digest: dgst.String()})
	if err != nil {
		cancel()
		return nil, d.wrap("blob "+dgst.String(), err)
	}
	return &streamReader{recv: s.Recv, cancel: cancel}, nil
}

func blobFile(root string, dgst digest.Digest) string {
	return filepath.Join(root, "blobs", dgst.Algorithm().String(), dgst.Encoded())
}

// contentRoot asks containerd where its content store is; "" where that cannot
// be told or seen from here.
func (d *Daemon) contentRoot(ctx context.Context) string {
	d.blobs.mu.Lock()
	defer d.blobs.mu.Unlock()
	if d.blobs.path != "" {
		return d.blobs.path
	}
	ctx, cancel := d.request(ctx, "default")
	defer cancel()
	r, err := d.introspection().Plugins(ctx, &introspectionapi.PluginsRequest{Filters: []string{"type==io.containerd.content.v1"}})
	if err != nil {
		return ""
	}
	for _, p := range r.GetPlugins() {
		root := p.GetExports()["root"]
		if fi, err := os.Stat(filepath.Join(root, "blobs")); root != "" && err == nil && fi.IsDir() {
			d.blobs.path = root
			return root
		}
	}
	return ""
}

type streamReader struct {
	recv   func() (*contentapi.ReadContentResponse, error)
	cancel context.CancelFunc
	buf    []byte
}

func (s *streamReader) Read(p []byte) (int, error) {
	for len(s.buf) == 0 {
		r, err := s.recv()
		if err != nil {
			return 0, err
		}
		s.buf = r.GetData()
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}

func (s *streamReader) Close() error {
	s.cancel()
	return nil
}

// Tar opens a layer's uncompressed tar; a layer without a DiffID is checked by
// its blob's digest alone. After it has been read to its end,
// Verify says whether blob and tar are what their digests say.
func (d *Daemon) Tar(ctx context.Context, ns string, l Layer) (*Tar, error) {
	rc, err := d.Blob(ctx, ns, l.Blob)
	if err != nil {
		return nil, err
	}
	t := &Tar{layer: l, blob: rc, compressed: l.Blob.Algorithm().Digester(), plain: digest.SHA256.Digester()}
	if l.DiffID != "" {
		t.plain = l.DiffID.Algorithm().Digester()
	}
	t.raw = bufio.NewReaderSize(io.TeeReader(rc, t.compressed.Hash()), 1<<20)
	magic, err := t.raw.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		rc.Close()
		return nil, fmt.Errorf("blob %s: %w", l.Blob, err)
	}
	var plain io.Reader
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(t.raw)
		if err != nil {
			return nil, errors.Join(cmp.Or(t.verifyBlob(), fmt.Errorf("blob %s: gzip: %w", l.Blob, err)), rc.Close())
		}
		plain = z
	case reference.IsZstd(magic):
		z, err := zstd.NewReader(t.raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			rc.Close()
			return nil, fmt.Errorf("blob %s: zstd: %w", l.Blob, err)
		}
		t.zstd = z
		plain = z
	default:
		plain = t.raw
	}
	t.tee = io.TeeReader(plain, t.plain.Hash())
	return t, nil
}

// Tar is a layer being read.
type Tar struct {
	layer             Layer
	blob              io.ReadCloser
	raw               *bufio.Reader
	tee               io.Reader
	zstd              *zstd.Decoder
	compressed, plain digest.Digester
}

func (t *Tar) Read(p []byte) (int, error) { return t.tee.Read(p) }

// Verify reads what is left and checks both digests. Its error is a
// *CorruptError when one differs.
func (t *Tar) Verify() error {
	// What a changed blob does to its decompression is no news.
	_, plainErr := io.Copy(io.Discard, t.tee)
	if err := t.verifyBlob(); err != nil {
		return err
	}
	if plainErr != nil {
		return fmt.Errorf("blob %s: %w", t.layer.Blob, plainErr)
	}
	if found := t.plain.Digest(); t.layer.DiffID != "" && found != t.layer.DiffID {
		return &CorruptError{Wanted: t.layer.DiffID, Found: found}
	}
	return nil
}

// verifyBlob reads what is left of the blob as it is stored.
func (t *Tar) verifyBlob() error {
	if _, err := io.Copy(io.Discard, t.raw); err != nil {
		return fmt.Errorf("blob %s: %w", t.layer.Blob, err)
	}
	if found := t.compressed.Digest(); found != t.layer.Blob {
		return &CorruptError{Wanted: t.layer.Blob, Found: found}
	}
	return nil
}

// Close releases the blob.
func (t *Tar) Close() error {
	if t.zstd != nil {
		t.zstd.Close()
	}
	return t.blob.Close()
}
