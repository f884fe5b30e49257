package tamper_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

// checkpointed is what the checkpoints of the tests have in their writable layer:
// a new file and a changed one, and, as containerd itself writes it, the
// directories that hold them.
func checkpointed(t *testing.T, named bool) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"opt/", "opt/deep/", "etc/"} {
		if !named {
			break
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(1_700_000_000, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string]string{"opt/deep/state": "what it wrote\n", "etc/motd": "its own\n"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1_700_000_000, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// store writes a blob as containerd's client does.
func store(t *testing.T, s *tamper.Stage, ctx context.Context, mediaType string, b []byte, labels map[string]string) v1.Descriptor {
	t.Helper()
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := content.WriteBlob(ctx, s.Client.ContentStore(), d.Digest.String(), bytes.NewReader(b), d, content.WithLabels(labels)); err != nil {
		t.Fatal(err)
	}
	return d
}

// checkpointOf stores a checkpoint as `ctr container checkpoint --rw` does, of a
// container of the image: by name, and with its descriptor when included.
func checkpointOf(t *testing.T, s *tamper.Stage, ctx context.Context, name string, img containerd.Image, included, named bool) v1.Descriptor {
	t.Helper()
	rw := store(t, s, ctx, v1.MediaTypeImageLayer, checkpointed(t, named), nil)
	idx := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{rw}, Annotations: map[string]string{v1.AnnotationRefName: img.Name(), "test": name}}
	idx.SchemaVersion = 2
	if included {
		idx.Manifests = append(idx.Manifests, img.Target())
	}
	b, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	target := store(t, s, ctx, v1.MediaTypeImageIndex, b, map[string]string{"containerd.io/gc.ref.content.0": rw.Digest.String()})
	if _, err := s.Client.ImageService().Create(ctx, images.Image{Name: name, Target: target}); err != nil {
		t.Fatal(err)
	}
	return rw
}

// TestCheckpointsVouch restores writable layers from checkpoints: of the same
// image they are accepted, however they name it. Of another image they are not,
// and neither is a layer that was changed after it was restored.
func TestCheckpointsVouch(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			s := tamper.TestStage(t, node.Options{Name: "vouch", Line: line})
			for _, included := range []bool{false, true} {
				// The one that includes its image names its directories too.
				ns := fmt.Sprint("included-", included)
				ctx, done, err := s.Client.WithLease(namespaces.WithNamespace(t.Context(), ns))
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := done(context.WithoutCancel(ctx)); err != nil {
						t.Error(err)
					}
				}()
				img := imported(t, s, ns)
				other, err := s.Import(t.Context(), ns, overlayfs, s.Other)
				if err != nil {
					t.Fatal(err)
				}
				rw := checkpointOf(t, s, ctx, "checkpoint/one", img, included, included)
				// restored prepares a container with the checkpoint's writable layer.
				restored := func(id string, of containerd.Image, change func(upper string) error) *tamper.Record {
					t.Helper()
					c, err := s.Create(ctx, ns, id, overlayfs, of)
					if err != nil {
						t.Fatal(err)
					}
					mounts, err := s.Client.SnapshotService(overlayfs).Mounts(ctx, id)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := s.Client.DiffService().Apply(ctx, rw, mounts); err != nil {
						t.Fatal(err)
					}
					req, err := s.Request(ctx, ns, c)
					if err != nil {
						t.Fatal(err)
					}
					if change != nil {
						if err := change(s.Inside(upperOf(t, req.GetRootfs()[0].GetOptions()))); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := s.Launch(req); err != nil {
						t.Fatal(err)
					}
					r, err := s.Find(ns, id)
					if err != nil {
						t.Fatal(err)
					}
					return r
				}
				if r := restored("same", img, nil); r.Type != "launch" || r.Root.Upper != "restored" {
					t.Errorf("%s: the same image's checkpoint: %s", ns, r)
				}
				for name, c := range map[string]struct {
					of     containerd.Image
					change func(upper string) error
					code   string
				}{
					"another-image": {other, nil, "upper-not-empty"},
					"content":       {img, func(u string) error { return os.WriteFile(u+"/etc/motd", []byte("another's\n"), 0o644) }, "upper-not-empty"},
					"added":         {img, func(u string) error { return os.WriteFile(u+"/opt/evil", nil, 0o755) }, "upper-not-empty"},
					"outside-name":  {img, func(u string) error { return os.Link(u+"/etc/motd", filepath.Dir(u)+"/outside") }, "layer-content"},
					"unnamed-mode":  {img, func(u string) error { return os.Chmod(u+"/opt/deep", 0o777) }, map[bool]string{false: "layer-content", true: "upper-not-empty"}[included]},
				} {
					if r := restored(name, c.of, c.change); r.Type != "refusal" || !hasCode(r.Reasons, c.code) {
						t.Errorf("%s: %s: the log says %s\nwanted a refusal with %s", ns, name, r, c.code)
					}
				}
				// The name given to another image takes along only what says no more than
				// the name.
				retag(t, s, ctx, tamper.Name, other.Target())
				moved, err := s.Client.GetImage(ctx, tamper.Name)
				if err != nil {
					t.Fatal(err)
				}
				if r := restored("moved", moved, nil); (r.Type == "refusal") != included {
					t.Errorf("%s: the name given to another image: %s", ns, r)
				}
				retag(t, s, ctx, tamper.Name, img.Target())
				if err := s.Client.ImageService().Delete(ctx, "checkpoint/one"); err != nil {
					t.Fatal(err)
				}
				if r := restored("gone", img, nil); r.Type != "refusal" {
					t.Errorf("without its checkpoint: %s", r)
				}
			}
		})
	}
}

func upperOf(t *testing.T, options []string) string {
	t.Helper()
	for _, o := range options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir
		}
	}
	t.Fatalf("no upperdir in %v", options)
	return ""
}
