// Package image makes container images out of nothing but code and a busybox:
// OCI layouts whose every byte is known, the same on each run, with what real
// images have and what careless tools get wrong.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// nameAnnotation is where containerd's import finds an image's full name.
const nameAnnotation = "io.containerd.image.name"

// Layer writes one layer's entries.
type Layer func(w *Writer) error

// Spec is what an image is made from.
type Spec struct {
	// Name is a full reference: host/path:tag.
	Name   string
	Layers []Layer
	// Compression is the layers' own; they are gzipped where it says nothing.
	Compression []Compression
	Config      v1.ImageConfig
}

// Compression is how a layer's blob is packed.
type Compression int

// The compressions that image-spec has media types for.
const (
	Gzip Compression = iota
	Zstd
	None
)

func (c Compression) mediaType() string {
	return [...]string{v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd, v1.MediaTypeImageLayer}[c]
}

// writer compresses at the fastest level: the tests wait for it.
func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	case None:
		return uncompressed{w}, nil
	}
	return gzip.NewWriterLevel(w, gzip.BestSpeed)
}

type uncompressed struct{ io.Writer }

func (uncompressed) Close() error { return nil }

// Image is an image in a layout on disk.
type Image struct {
	Name string
	// Dir is an OCI image layout.
	Dir      string
	Manifest digest.Digest
	DiffIDs  []digest.Digest
	Blobs    []v1.Descriptor
}

// Write makes the layout of one image in dir, which must be empty. The same
// spec gives the same bytes.
func Write(dir string, s Spec) (*Image, error) {
	img := &Image{Name: s.Name, Dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	for i, layer := range s.Layers {
		c := Gzip
		if i < len(s.Compression) {
			c = s.Compression[i]
		}
		blob, diffID, err := writeLayer(dir, layer, c)
		if err != nil {
			return nil, fmt.Errorf("image %s: layer %d: %w", s.Name, i, err)
		}
		img.Blobs = append(img.Blobs, blob)
		img.DiffIDs = append(img.DiffIDs, diffID)
	}
	config, err := writeJSON(dir, v1.MediaTypeImageConfig, v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   s.Config,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: img.DiffIDs},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := writeJSON(dir, v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: config, Layers: img.Blobs,
	})
	if err != nil {
		return nil, err
	}
	img.Manifest = manifest.Digest
	manifest.Annotations = map[string]string{nameAnnotation: s.Name, v1.AnnotationRefName: s.Name[strings.LastIndexByte(s.Name, ':')+1:]}
	manifest.Platform = &v1.Platform{Architecture: runtime.GOARCH, OS: "linux"}
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{manifest},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, v1.ImageIndexFile), index, 0o644); err != nil {
		return nil, err
	}
	return img, os.WriteFile(filepath.Join(dir, v1.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// Open reads a layout that Write made.
func Open(dir string) (*Image, error) {
	var index v1.Index
	if err := readJSON(filepath.Join(dir, v1.ImageIndexFile), &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("layout %s: %d manifests, want 1", dir, len(index.Manifests))
	}
	img := &Image{Dir: dir, Name: index.Manifests[0].Annotations[nameAnnotation], Manifest: index.Manifests[0].Digest}
	var manifest v1.Manifest
	if err := readJSON(img.Path(img.Manifest), &manifest); err != nil {
		return nil, err
	}
	var config v1.Image
	if err := readJSON(img.Path(manifest.Config.Digest), &config); err != nil {
		return nil, err
	}
	img.Blobs, img.DiffIDs = manifest.Layers, config.RootFS.DiffIDs
	return img, nil
}

// Path is the file of a blob.
func (i *Image) Path(d digest.Digest) string {
	return filepath.Join(i.Dir, "blobs", "sha256", d.Encoded())
}

// Archive writes the layout as the tar that `ctr image import` reads.
func (i *Image) Archive(w io.Writer) error {
	tw := tar.NewWriter(w)
	if err := tw.AddFS(os.DirFS(i.Dir)); err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	return tw.Close()
}

// Join makes one layout of several, which share no blobs, in dir.
func Join(dir string, images []*Image) (*Image, error) {
	joined := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, img := range images {
		if err := os.CopyFS(filepath.Join(dir, "blobs"), os.DirFS(filepath.Join(img.Dir, "blobs"))); err != nil {
			return nil, fmt.Errorf("image %s: %w", img.Name, err)
		}
		var index v1.Index
		if err := readJSON(filepath.Join(img.Dir, v1.ImageIndexFile), &index); err != nil {
			return nil, err
		}
		joined.Manifests = append(joined.Manifests, index.Manifests...)
	}
	b, err := json.Marshal(joined)
	if err != nil {
		return nil, err
	}
	return &Image{Name: "joined", Dir: dir}, errors.Join(os.WriteFile(filepath.Join(dir, v1.ImageIndexFile), b, 0o644),
		os.WriteFile(filepath.Join(dir, v1.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func writeJSON(dir, mediaType string, v any) (v1.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded()), b, 0o644)
}

func writeLayer(dir string, layer Layer, c Compression) (v1.Descriptor, digest.Digest, error) {
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	defer f.Close()
	blob, diff := sha256.New(), sha256.New()
	packed, err := c.writer(io.MultiWriter(f, blob))
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	w := newWriter(io.MultiWriter(packed, diff))
	if err := layer(w); err != nil {
		return v1.Descriptor{}, "", err
	}
	if err := w.tar.Close(); err != nil {
		return v1.Descriptor{}, "", err
	}
	if err := packed.Close(); err != nil {
		return v1.Descriptor{}, "", err
	}
	st, err := f.Stat()
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	d := v1.Descriptor{
		MediaType: c.mediaType(),
		Digest:    digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(blob.Sum(nil))),
		Size:      st.Size(),
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil {
		return v1.Descriptor{}, "", err
	}
	diffID := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(diff.Sum(nil)))
	return d, diffID, os.Rename(f.Name(), filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded()))
}

// Tar returns a layer's uncompressed bytes.
func Tar(layer Layer) ([]byte, error) {
	var b bytes.Buffer
	w := newWriter(&b)
	if err := layer(w); err != nil {
		return nil, err
	}
	if err := w.tar.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
