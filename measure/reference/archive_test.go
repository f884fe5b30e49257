package reference

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is an OCI layout under construction.
type image struct {
	files map[string][]byte
}

func (im *image) blob(mediaType string, data []byte) ocispec.Descriptor {
	sum := sha256.Sum256(data)
	d := ocispec.Descriptor{MediaType: mediaType, Digest: godigest.NewDigestFromBytes(godigest.SHA256, sum[:]), Size: int64(len(data))}
	im.files["blobs/sha256/"+d.Digest.Encoded()] = data
	return d
}

func (im *image) json(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return im.blob(mediaType, data)
}

func layerTar(t testing.TB, name, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	buf.Write(make([]byte, 4096)) // padding that counts for the diffID
	return buf.Bytes()
}

// compress returns data as its media type says.
func compress(t testing.TB, mediaType string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		w = gzip.NewWriter(&buf)
	case strings.HasSuffix(mediaType, "zstd"):
		z, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	default:
		return data
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// twoPlatforms is an index of two platforms and an attestation, with one layer
// in each compression.
func twoPlatforms(t testing.TB) *image {
	t.Helper()
	im := &image{files: map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
	var inner ocispec.Index
	for _, arch := range []string{"amd64", "arm64"} {
		config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
		var m ocispec.Manifest
		for _, mt := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd} {
			plain := layerTar(t, "file", arch+mt)
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, godigest.FromBytes(plain))
			m.Layers = append(m.Layers, im.blob(mt, compress(t, mt, plain)))
		}
		m.Config = im.json(t, ocispec.MediaTypeImageConfig, config)
		inner.Manifests = append(inner.Manifests, im.json(t, ocispec.MediaTypeImageManifest, m))
	}
	attestation := ocispec.Manifest{Config: im.json(t, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"}})}
	inner.Manifests = append(inner.Manifests, im.json(t, ocispec.MediaTypeImageManifest, attestation))
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: godigest.Digest(hexDigest("9")), Size: 7}
	inner.Manifests = append(inner.Manifests, absent)
	outer, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{im.json(t, ocispec.MediaTypeImageIndex, inner)}})
	if err != nil {
		t.Fatal(err)
	}
	im.files["index.json"] = outer
	return im
}

func (im *image) dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range im.files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (im *image) tar(t testing.TB) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range im.files {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// byFirstFile stands in for the layer digest: it depends on the content of the
// first file and stops reading there.
func byFirstFile(r io.Reader) (string, error) {
	tr := tar.NewReader(r)
	if _, err := tr.Next(); err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, tr); err != nil {
		return "", err
	}
	return "sealift-layer-v1:" + hex.EncodeToString(h.Sum(nil)), nil
}

func TestFromArchive(t *testing.T) {
	im := twoPlatforms(t)
	for name, file := range map[string]string{"tar": im.tar(t), "directory": im.dir(t)} {
		t.Run(name, func(t *testing.T) {
			var steps []Progress
			images, err := FromArchive(context.Background(), file, ArchiveOptions{Digest: byFirstFile, Progress: func(p Progress) { steps = append(steps, p) }})
			if err != nil {
				t.Fatal(err)
			}
			if len(images) != 2 || len(images[0].Layers) != 3 || images[0].Platform != "linux/amd64" || images[1].Platform != "linux/arm64" {
				t.Fatalf("%+v", images)
			}
			sum := sha256.Sum256([]byte("arm64" + ocispec.MediaTypeImageLayerZstd))
			if got := images[1].Layers[2].Digest; got != "sealift-layer-v1:"+hex.EncodeToString(sum[:]) {
				t.Errorf("layers out of order: %s", got)
			}
			if len(steps) != 12 || steps[11].Layer != 3 || steps[11].Digest == "" {
				t.Errorf("progress %+v", steps)
			}
			if err := (&Bundle{Name: "x", Version: 1, Expires: now, Images: images}).Validate(); err != nil {
				t.Error(err)
			}
			one, err := FromArchive(context.Background(), file, ArchiveOptions{Digest: byFirstFile, Platform: "linux/arm64"})
			if err != nil || len(one) != 1 || one[0].Manifest != images[1].Manifest {
				t.Errorf("one platform: %+v, %v", one, err)
			}
			if _, err := FromArchive(context.Background(), file, ArchiveOptions{Digest: byFirstFile, Platform: "linux/s390x"}); err == nil || !strings.Contains(err.Error(), "linux/arm64") {
				t.Errorf("absent platform: %v", err)
			}
		})
	}
}

// One changed byte of any blob is found, whichever digest it is that finds it.
func TestFromArchiveTampered(t *testing.T) {
	names := twoPlatforms(t).files
	tried := 0
	for name := range names {
		if !strings.HasPrefix(name, "blobs/") {
			continue
		}
		im := twoPlatforms(t)
		data := bytes.Clone(im.files[name])
		data[len(data)-1] ^= 1
		im.files[name] = data
		if images, err := FromArchive(context.Background(), im.dir(t), ArchiveOptions{Digest: byFirstFile}); err == nil {
			t.Errorf("%s: accepted %+v", name, images)
		}
		tried++
	}
	if tried < 10 {
		t.Errorf("only %d blobs", tried)
	}
}

// A layer that is well but is not the one of the configuration is refused.
func TestFromArchiveSwappedDiffID(t *testing.T) {
	im := &image{files: map[string][]byte{}}
	plain := layerTar(t, "f", "x")
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	config.RootFS.DiffIDs = []godigest.Digest{godigest.FromString("another")}
	m := ocispec.Manifest{Config: im.json(t, ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{im.blob(ocispec.MediaTypeImageLayer, plain)}}
	index, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{im.json(t, ocispec.MediaTypeImageManifest, m)}})
	if err != nil {
		t.Fatal(err)
	}
	im.files["index.json"] = index
	if _, err := FromArchive(context.Background(), im.dir(t), ArchiveOptions{Digest: byFirstFile}); err == nil || !strings.Contains(err.Error(), "not the diffID") {
		t.Errorf("got %v", err)
	}
}

// A directory layout cannot lead outside of itself.
func TestFromArchiveSymlink(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "index.json")
	if err := os.WriteFile(outside, []byte(`{}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "index.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := FromArchive(context.Background(), dir, ArchiveOptions{Digest: byFirstFile}); err == nil || strings.Contains(err.Error(), "no image in it") {
		t.Errorf("got %v", err)
	}
}

// Whatever an archive holds, reading it ends with images that can be signed, or
// with an error.
func FuzzFromArchive(f *testing.F) {
	im := &image{files: map[string][]byte{"index.json": []byte(`{"manifests":[]}`)}}
	for _, seed := range []*image{im, {files: map[string][]byte{}}} {
		data, err := os.ReadFile(seed.tar(f))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	data, err := os.ReadFile(twoPlatforms(f).tar(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	file := filepath.Join(f.TempDir(), "image.tar")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		images, err := FromArchive(context.Background(), file, ArchiveOptions{Digest: byFirstFile})
		if err != nil {
			return
		}
		if err := (&Bundle{Name: "x", Version: 1, Expires: now, Images: images}).Validate(); err != nil {
			t.Fatal(err)
		}
	})
}
