package reference

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout gives the files of an OCI image layout.
type layout interface {
	open(name string) (io.ReadCloser, error)
	io.Closer
}

// IsLayout reports whether file is an OCI image layout, as a directory or a tar.
func IsLayout(file string) (bool, error) {
	l, err := openLayout(file)
	var not *NotLayoutError
	switch {
	case errors.As(err, &not):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("archive %s: %w", file, err)
	}
	defer l.Close()
	r, err := l.open("index.json")
	if err != nil {
		return false, nil
	}
	return true, r.Close()
}

func openLayout(file string) (layout, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		root, err := os.OpenRoot(file)
		if err != nil {
			return nil, err
		}
		return dirLayout{root}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	l, err := newTarLayout(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

type dirLayout struct{ root *os.Root }

func (l dirLayout) open(name string) (io.ReadCloser, error) {
	return l.root.Open(filepath.FromSlash(name))
}

func (l dirLayout) Close() error { return l.root.Close() }

// tarLayout finds files of a tar on disk by offset, so that layers are read in
// the image's order and not in the archive's.
type tarLayout struct {
	f     *os.File
	files map[string]span
}

func (l *tarLayout) Close() error { return l.f.Close() }

type span struct{ offset, size int64 }

func newTarLayout(f *os.File) (*tarLayout, error) {
	l := &tarLayout{f: f, files: map[string]span{}}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return nil, &NotLayoutError{Err: err}
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("%w\nhint: save the archive to a file first", err)
		}
		l.files[path.Clean(h.Name)] = span{at, h.Size}
	}
}

func (l *tarLayout) open(name string) (io.ReadCloser, error) {
	s, ok := l.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(l.f, s.offset, s.size)), nil
}

func decompress(mediaType string, r io.Reader) (io.ReadCloser, error) {
	switch {
	case strings.HasSuffix(mediaType, "+gzip"), strings.HasSuffix(mediaType, ".tar.gzip"):
		return gzip.NewReader(r)
	case strings.HasSuffix(mediaType, "+zstd"):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case strings.HasSuffix(mediaType, ".tar"):
		return io.NopCloser(r), nil
	}
	return nil, fmt.Errorf("media type %q is not a layer that can be read", mediaType)
}

// IsZstd says whether a blob that begins with head, of eight bytes, is compressed
// with zstd. The first frame may be one to be passed over, as pzstd and
// zstd:chunked write them; containerd unpacks these too.
func IsZstd(head []byte) bool {
	if bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return true
	}
	return len(head) >= 8 && binary.LittleEndian.Uint32(head)&^0xf == 0x184d2a50
}

// Decompress reads a layer's tar that may be compressed with gzip or zstd: the
// first bytes tell.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReader(r)
	head, err := b.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return decompress("+gzip", b)
	case IsZstd(head):
		return decompress("+zstd", b)
	}
	return io.NopCloser(b), nil
}

// blob reads one small blob and checks it.
func (a *archive) blob(d ocispec.Descriptor) ([]byte, error) {
	if d.Size > maxDocument {
		return nil, fmt.Errorf("blob %s: %d bytes, more than %d", d.Digest, d.Size, maxDocument)
	}
	b, err := a.openBlob(d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, b); err != nil {
		return nil, err
	}
	return buf.Bytes(), b.finish()
}

func (a *archive) openBlob(d ocispec.Descriptor) (*checkedBlob, error) {
	want := d.Digest.String()
	if !sha256Shape.MatchString(want) {
		return nil, fmt.Errorf("blob %q: not a sha256 digest", want)
	}
	r, err := a.layout.open("blobs/sha256/" + strings.TrimPrefix(want, "sha256:"))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", want, err)
	}
	return &checkedBlob{r: io.LimitReader(r, d.Size+1), c: r, sum: sha256.New(), want: want, size: d.Size}, nil
}

// checkedBlob is a blob whose digest is known once it has been read.
type checkedBlob struct {
	r    io.Reader
	c    io.Closer
	sum  hash.Hash
	want string
	size int64
	n    int64
}

func (b *checkedBlob) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	b.sum.Write(p[:n])
	return n, err
}

func (b *checkedBlob) Close() error { return b.c.Close() }

// finish reads what is left and returns an error unless all of the blob was
// what its descriptor says.
func (b *checkedBlob) finish() error {
	if _, err := io.Copy(io.Discard, b); err != nil {
		return fmt.Errorf("blob %s: %w", b.want, err)
	}
	if got := "sha256:" + hex.EncodeToString(b.sum.Sum(nil)); got != b.want || b.n != b.size {
		return fmt.Errorf("blob %s: its content is %s, %d bytes; wanted %d", b.want, got, b.n, b.size)
	}
	return nil
}
