package tamper_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

const contentStore = "/var/lib/containerd/io.containerd.content.v1.content"

// editBlob changes one blob of the content store in place: same length, other
// content.
func editBlob(t *testing.T, s *tamper.Stage, d digest.Digest, from, to string) {
	t.Helper()
	file := s.Inside(filepath.Join(contentStore, "blobs", d.Algorithm().String(), d.Encoded()))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(b), from, to, 1)
	if changed == string(b) || len(from) != len(to) {
		t.Fatalf("%q is not in %s", from, file)
	}
	if err := errors.Join(os.Chmod(file, 0o644), os.WriteFile(file, []byte(changed), 0o444)); err != nil {
		t.Fatal(err)
	}
}

func manifestOf(t *testing.T, s *tamper.Stage) (m v1.Manifest) {
	t.Helper()
	b, err := os.ReadFile(s.Image.Path(s.Image.Manifest))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestBlobsChanged edits what the content store has of the image. The arguments
// and environment of a new container come from there. One content store serves
// all namespaces, so that each blob has a node, or at least a turn.
func TestBlobsChanged(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			s := tamper.TestStage(t, node.Options{Name: "blobs", Line: line, Config: "[measure]\nbackground = false\n"})
			m := manifestOf(t, s)
			const ns = "blobs"
			imported(t, s, ns)
			refusedFor := func(id, code string) {
				t.Helper()
				out, err := s.Run(t.Context(), ns, id, nil, "/bin/true")
				if err == nil {
					t.Errorf("%s: started", id)
					return
				}
				if err := s.Left(t.Context(), ns, id); err != nil {
					t.Error(err)
				}
				r, ferr := s.Find(ns, id)
				if ferr != nil {
					t.Errorf("%s: %v; ctr says %s %v", id, ferr, out, err)
					return
				}
				if r.Type != "refusal" || !hasCode(r.Reasons, code) {
					t.Errorf("%s: the log says %s\nwanted a refusal with %s", id, r, code)
				}
			}
			// Before anything was read of the image.
			layer := m.Layers[2].Digest
			swap := func(d digest.Digest, from, to string) func() {
				editBlob(t, s, d, from, to)
				return func() { editBlob(t, s, d, to, from) }
			}
			b, err := os.ReadFile(s.Image.Path(layer))
			if err != nil {
				t.Fatal(err)
			}
			tail := string(b[len(b)-8:])
			undo := swap(layer, tail, "\x00\x00\x00\x00"+tail[4:])
			refusedFor("layer-first", "blob-content")
			undo()
			undo = swap(m.Config.Digest, "OF=image", "OF=other")
			refusedFor("config-first", "image")
			undo()
			starts := func(id string) {
				t.Helper()
				if out, err := s.Run(t.Context(), ns, id, nil, "/bin/true"); err != nil {
					t.Fatalf("%s: %s %v", id, out, err)
				}
			}
			starts("untampered")
			// After: what was read stays true, and what clients read again does not.
			undo = swap(m.Config.Digest, "OF=image", "OF=other")
			refusedFor("config-bound", "image")
			undo()
			starts("put-back")
			undo = swap(s.Image.Manifest, `"schemaVersion":2`, `"schemaVersion":3`)
			refusedFor("manifest-bound", "image")
			undo()
			starts("put-back-again")
		})
	}
}

// TestNamesMoved gives names of containerd's to something else through its own
// interface: an image is tagged as another, a container stands on another
// image's snapshot, or names another image than the one it was made from.
func TestNamesMoved(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "names"})
	const ns = "names"
	ctx := namespaces.WithNamespace(t.Context(), ns)
	img := imported(t, s, ns)
	oimg, err := s.Import(t.Context(), ns, overlayfs, s.Other)
	if err != nil {
		t.Fatal(err)
	}
	create := func(id string) containerd.Container {
		t.Helper()
		c, err := s.Create(ctx, ns, id, overlayfs, img)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := task(ctx, create("untampered")); err != nil {
		t.Fatalf("untampered: %v", err)
	}
	t.Run("another image's snapshot", func(t *testing.T) {
		c, err := s.Client.NewContainer(ctx, "snapshot", containerd.WithImage(img), containerd.WithSnapshotter(overlayfs),
			containerd.WithNewSnapshot("snapshot", oimg), containerd.WithImage(img), containerd.WithRuntime(node.Sealift, nil), tamper.Spec())
		if err != nil {
			t.Fatal(err)
		}
		refusedTask(t, s, ctx, c, "layer-content")
	})
	t.Run("a snapshot without a parent", func(t *testing.T) {
		if _, err := s.Client.SnapshotService(overlayfs).Prepare(ctx, "bare", ""); err != nil {
			t.Fatal(err)
		}
		c, err := s.Client.NewContainer(ctx, "bare", containerd.WithImage(img), containerd.WithSnapshotter(overlayfs),
			containerd.WithSnapshot("bare"), containerd.WithRuntime(node.Sealift, nil), tamper.Spec())
		if err != nil {
			t.Fatal(err)
		}
		refusedTask(t, s, ctx, c, "layer-count")
	})
	t.Run("a snapshot of fewer layers", func(t *testing.T) {
		if _, err := s.Client.SnapshotService(overlayfs).Prepare(ctx, "fewer", identity.ChainID(s.Image.DiffIDs[:2]).String()); err != nil {
			t.Fatal(err)
		}
		c, err := s.Client.NewContainer(ctx, "fewer", containerd.WithImage(img), containerd.WithSnapshotter(overlayfs),
			containerd.WithSnapshot("fewer"), containerd.WithRuntime(node.Sealift, nil), tamper.Spec())
		if err != nil {
			t.Fatal(err)
		}
		refusedTask(t, s, ctx, c, "layer-count")
	})
	t.Run("no image", func(t *testing.T) {
		if _, err := s.Client.SnapshotService(overlayfs).Prepare(ctx, "imageless", identity.ChainID(s.Image.DiffIDs).String()); err != nil {
			t.Fatal(err)
		}
		c, err := s.Client.NewContainer(ctx, "imageless", containerd.WithSnapshotter(overlayfs),
			containerd.WithSnapshot("imageless"), containerd.WithRuntime(node.Sealift, nil), tamper.Spec())
		if err != nil {
			t.Fatal(err)
		}
		refusedTask(t, s, ctx, c, "policy-rootfs")
	})
	t.Run("a name for another image", func(t *testing.T) {
		before := create("before")
		retag(t, s, ctx, tamper.Name, oimg.Target())
		refusedTask(t, s, ctx, before, "layer-content")
		retag(t, s, ctx, tamper.Name, img.Target())
		if err := task(ctx, before); err != nil {
			t.Errorf("the name put back: %v", err)
		}
		// A container that started once keeps the image of its first start.
		retag(t, s, ctx, tamper.Name, oimg.Target())
		if err := task(ctx, before); err != nil {
			t.Errorf("restarted under a name that was moved: %v", err)
		}
		r, err := s.Find(ns, "before")
		if err != nil || r.Image.Manifest != s.Image.Manifest.String() {
			t.Errorf("the log says manifest %s (%v), wanted the first start's %s", r.Image.Manifest, err, s.Image.Manifest)
		}
		// A name is no claim: what was made from the other image is the other image,
		// and the log says which.
		out, err := s.Run(t.Context(), ns, "after", nil, "/bin/true")
		if err != nil {
			t.Fatalf("%s %v", out, err)
		}
		if r, err = s.Find(ns, "after"); err != nil || r.Image.Manifest != s.Other.Manifest.String() {
			t.Errorf("the log says manifest %s (%v), wanted %s", r.Image.Manifest, err, s.Other.Manifest)
		}
	})
}

func retag(t *testing.T, s *tamper.Stage, ctx context.Context, name string, target v1.Descriptor) {
	t.Helper()
	if _, err := s.Client.ImageService().Update(ctx, images.Image{Name: name, Target: target}, "target"); err != nil {
		t.Fatal(err)
	}
}

// task runs a container's task to its end.
func task(ctx context.Context, c containerd.Container) error {
	task, err := c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	wait, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	select {
	case <-wait:
	case <-time.After(2 * time.Minute):
		return errors.New("the task does not end")
	}
	_, err = task.Delete(ctx)
	return err
}

// refusedTask starts a container that must be refused, and looks at what is left
// but for itself.
func refusedTask(t *testing.T, s *tamper.Stage, ctx context.Context, c containerd.Container, code string) {
	t.Helper()
	ns, _ := namespaces.Namespace(ctx)
	err := task(ctx, c)
	if err == nil {
		t.Errorf("%s started", c.ID())
		return
	}
	if !strings.Contains(err.Error(), fmt.Sprintf("sealift refused %s/%s", ns, c.ID())) {
		t.Errorf("the error is %v", err)
	}
	r, err := s.Find(ns, c.ID())
	if err != nil {
		t.Fatal(err)
	}
	if r.Type != "refusal" || !hasCode(r.Reasons, code) {
		t.Errorf("the log says %s\nwanted a refusal with %s", r, code)
	}
}

// TestDatabasesEdited changes containerd's databases while it is down, so that
// their entries point elsewhere.
func TestDatabasesEdited(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			s := tamper.TestStage(t, node.Options{Name: "bolt", Line: line})
			const ns = "bolt"
			ctx := namespaces.WithNamespace(t.Context(), ns)
			img := imported(t, s, ns)
			if _, err := s.Import(ctx, ns, overlayfs, s.Other); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"untampered", "image-target", "container-image", "container-snapshot", "snapshot-name", "snapshot-parent", "content"} {
				if _, err := s.Create(ctx, ns, id, overlayfs, img); err != nil {
					t.Fatal(err)
				}
			}
			load := func(id string) containerd.Container {
				c, err := s.Client.LoadContainer(ctx, id)
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			if err := task(ctx, load("untampered")); err != nil {
				t.Fatal(err)
			}
			restart(t, s, func() {
				meta(t, s, func(tx *bolt.Tx) error {
					b := tx.Bucket([]byte("v1")).Bucket([]byte(ns))
					containers := b.Bucket([]byte("containers"))
					snapshots := b.Bucket([]byte("snapshots")).Bucket([]byte(overlayfs))
					other := snapshots.Bucket([]byte(identity.ChainID(s.Other.DiffIDs).String()))
					return errors.Join(
						containers.Bucket([]byte("container-image")).Put([]byte("image"), []byte(tamper.OtherName)),
						containers.Bucket([]byte("container-snapshot")).Put([]byte("snapshotKey"), []byte("image-target")),
						// The key of one snapshot stands for another's.
						snapshots.Bucket([]byte("snapshot-name")).Put([]byte("name"), other.Get([]byte("name"))),
					)
				})
				reparent(t, s, "snapshot-parent", identity.ChainID(s.Image.DiffIDs).String(), identity.ChainID(s.Other.DiffIDs).String())
			})
			refusedTask(t, s, ctx, load("container-image"), "layer-content")
			refusedTask(t, s, ctx, load("snapshot-parent"), "layer-content")
			if err := task(ctx, load("snapshot-name")); err == nil {
				t.Error("a committed snapshot of another image as a container's own: started")
			}
			// Another container's own fresh snapshot of the same image is what the
			// image says.
			if err := task(ctx, load("container-snapshot")); err != nil {
				t.Errorf("another fresh snapshot of the same image: %v", err)
			}
			// Now that it is somebody's work it is nobody else's.
			restart(t, s, func() {
				meta(t, s, func(tx *bolt.Tx) error {
					b := tx.Bucket([]byte("v1")).Bucket([]byte(ns))
					target := b.Bucket([]byte("images")).Bucket([]byte(tamper.Name)).Bucket([]byte("target"))
					return target.Put([]byte("digest"), []byte(s.Other.Manifest.String()))
				})
			})
			refusedTask(t, s, ctx, load("image-target"), "layer-content")
		})
	}
}

// restart stops containerd, calls f and starts it again.
func restart(t *testing.T, s *tamper.Stage, f func()) {
	t.Helper()
	if err := s.Containerd.Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	f()
	if err := errors.Join(s.StartContainerd(t.Context()), s.Connect()); err != nil {
		t.Fatal(err)
	}
}

func meta(t *testing.T, s *tamper.Stage, f func(*bolt.Tx) error) {
	t.Helper()
	edit(t, s.Inside("/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"), f)
}

func edit(t *testing.T, file string, f func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(file, 0o644, &bolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// reparent makes a container's snapshot stand on another parent in the
// snapshotter's own database, whose keys are "NAMESPACE/NUMBER/KEY".
func reparent(t *testing.T, s *tamper.Stage, key, from, to string) {
	t.Helper()
	edit(t, s.Inside("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/metadata.db"), func(tx *bolt.Tx) error {
		v := tx.Bucket([]byte("v1"))
		snapshots, parents := v.Bucket([]byte("snapshots")), v.Bucket([]byte("parents"))
		find := func(suffix string) (string, *bolt.Bucket) {
			var name string
			_ = snapshots.ForEach(func(k, _ []byte) error {
				if strings.HasSuffix(string(k), "/"+suffix) {
					name = string(k)
				}
				return nil
			})
			if name == "" {
				t.Fatalf("no snapshot %s", suffix)
			}
			return name, snapshots.Bucket([]byte(name))
		}
		name, own := find(key)
		_, old := find(from)
		parent, next := find(to)
		id := func(b *bolt.Bucket) uint64 { n, _ := binary.Uvarint(b.Get([]byte("id"))); return n }
		return errors.Join(own.Put([]byte("parent"), []byte(parent)),
			parents.Delete(parentKey(id(old), id(own))), parents.Put(parentKey(id(next), id(own)), []byte(name)))
	})
}

// parentKey is the key of containerd's index from parents to children: two
// varints with a zero byte between them.
func parentKey(parent, child uint64) []byte {
	return binary.AppendUvarint(append(binary.AppendUvarint(nil, parent), 0), child)
}
