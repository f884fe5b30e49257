package inventory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	containerdtypes "github.com/containerd/containerd/api/types"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// daemon is as much of containerd as resolving an image asks for.
type daemon struct {
	blobs  map[digest.Digest][]byte
	target digest.Digest
	parent string
}

type contentService struct {
	contentapi.UnimplementedContentServer
	s *daemon
}

func (c contentService) Info(_ context.Context, r *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	if _, ok := c.s.blobs[digest.Digest(r.GetDigest())]; !ok {
		return nil, status.Error(codes.NotFound, "no such blob")
	}
	return &contentapi.InfoResponse{}, nil
}

func (c contentService) Read(r *contentapi.ReadContentRequest, out contentapi.Content_ReadServer) error {
	return out.Send(&contentapi.ReadContentResponse{Data: c.s.blobs[digest.Digest(r.GetDigest())]})
}

type imageService struct {
	imagesapi.UnimplementedImagesServer
	s *daemon
}

func (i imageService) Get(context.Context, *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	return &imagesapi.GetImageResponse{Image: &imagesapi.Image{Target: &containerdtypes.Descriptor{Digest: i.s.target.String(), MediaType: ocispec.MediaTypeImageIndex}}}, nil
}

type snapshotService struct {
	snapshotsapi.UnimplementedSnapshotsServer
	s *daemon
}

func (n snapshotService) Stat(context.Context, *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	return &snapshotsapi.StatSnapshotResponse{Info: &snapshotsapi.Info{Parent: n.s.parent}}, nil
}

func (s *daemon) serve(t *testing.T) *Daemon {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	contentapi.RegisterContentServer(g, contentService{s: s})
	imagesapi.RegisterImagesServer(g, imageService{s: s})
	snapshotsapi.RegisterSnapshotsServer(g, snapshotService{s: s})
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	d, err := Open(socket, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (s *daemon) put(t *testing.T, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	dgst := digest.FromBytes(b)
	s.blobs[dgst] = b
	return ocispec.Descriptor{Digest: dgst, Size: int64(len(b))}
}

// image stores an image of one layer, whose diffID is the digest of content.
func (s *daemon) image(t *testing.T, arch, content string) (ocispec.Descriptor, digest.Digest) {
	t.Helper()
	diffID := digest.FromString(content)
	config := s.put(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}})
	m := s.put(t, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{{Digest: digest.FromString("blob of " + content)}}})
	m.MediaType = ocispec.MediaTypeImageManifest
	m.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return m, diffID
}

func (s *daemon) index(t *testing.T, manifests ...ocispec.Descriptor) digest.Digest {
	t.Helper()
	return s.put(t, ocispec.Index{Manifests: manifests}).Digest
}

// A platform that is pulled after the first start of another is found.
func TestIndexThatGrows(t *testing.T) {
	s := &daemon{blobs: map[digest.Digest][]byte{}}
	a, aLayer := s.image(t, "amd64", "a")
	b, bLayer := s.image(t, "386", "b")
	s.target = s.index(t, a, b)
	later := s.blobs[b.Digest]
	delete(s.blobs, b.Digest)
	d := s.serve(t)
	want := func(parent, manifest digest.Digest) {
		t.Helper()
		s.parent = parent.String()
		i, err := d.Image(t.Context(), "default", "image", "overlayfs", "snapshot")
		if err != nil || i.Manifest != manifest {
			t.Fatalf("%+v, %v: wanted %s", i, err, manifest)
		}
	}
	want(aLayer, a.Digest)
	s.blobs[b.Digest] = later
	want(bLayer, b.Digest)
	want(aLayer, a.Digest)
	// What was known stays so when its content is collected.
	delete(s.blobs, b.Digest)
	want(bLayer, b.Digest)
	delete(s.blobs, s.target)
	want(aLayer, a.Digest)
}

// What lies beside the images in an index does not keep them from starting.
func TestIndexOfOddThings(t *testing.T) {
	s := &daemon{blobs: map[digest.Digest][]byte{}}
	image, diffID := s.image(t, "amd64", "a")
	s.parent = diffID.String()
	empty := s.put(t, struct{}{})
	sbom := s.put(t, ocispec.Manifest{ArtifactType: "application/spdx+json", Config: empty, Layers: []ocispec.Descriptor{empty}})
	signature := s.put(t, ocispec.Manifest{Layers: []ocispec.Descriptor{empty}})
	inner := s.put(t, ocispec.Index{Manifests: []ocispec.Descriptor{image}})
	inner.MediaType = ocispec.MediaTypeImageIndex
	d := s.serve(t)
	for name, beside := range map[string][]ocispec.Descriptor{
		"an SBOM":              {sbom, image},
		"a signature":          {image, signature},
		"an index":             {inner},
		"a platform not there": {{Digest: digest.FromString("elsewhere")}, image},
	} {
		s.target = s.index(t, beside...)
		if i, err := d.Image(t.Context(), "default", name, "overlayfs", "snapshot"); err != nil || i.Manifest != image.Digest || i.Target != s.target {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
	s.target = s.index(t, sbom)
	var odd *notImageError
	if _, err := d.Image(t.Context(), "default", "sbom", "overlayfs", "snapshot"); !errors.As(err, &odd) {
		t.Errorf("an index without an image: %v", err)
	}
	deep := inner
	for range maxIndexDepth {
		deep = s.put(t, ocispec.Index{Manifests: []ocispec.Descriptor{deep}})
		deep.MediaType = ocispec.MediaTypeImageIndex
	}
	s.target = deep.Digest
	if _, err := d.Image(t.Context(), "default", "deep", "overlayfs", "snapshot"); !errors.As(err, &odd) {
		t.Errorf("a deep index: %v", err)
	}
	s.blobs[image.Digest] = []byte("{}")
	s.target = s.index(t, image, sbom)
	var corrupt *CorruptError
	if _, err := d.Image(t.Context(), "default", "changed", "overlayfs", "snapshot"); !errors.As(err, &corrupt) {
		t.Errorf("a changed manifest: %v", err)
	}
}

// A layer whose zstd begins with a frame to be passed over is its plain tar.
func TestTarOfSkippableFirst(t *testing.T) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte("layer"), 1000)
	blob := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, w.EncodeAll(plain, nil)...)
	s := &daemon{blobs: map[digest.Digest][]byte{digest.FromBytes(blob): blob}}
	tar, err := s.serve(t).Tar(t.Context(), "default", Layer{Blob: digest.FromBytes(blob), DiffID: digest.FromBytes(plain)})
	if err != nil {
		t.Fatal(err)
	}
	defer tar.Close()
	got, err := io.ReadAll(tar)
	if err := errors.Join(err, tar.Verify()); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}
