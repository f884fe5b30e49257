// Package equality imports images with containerd's own client, on both lines
// and with both snapshotters that keep directories, and measures what they
// unpacked. integration/applyoracle does so in process with many more tars.
package equality

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/image-spec/identity"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

const count = 50

func TestMain(m *testing.M) {
	host.Reexec()
	os.Exit(m.Run())
}

// sample is an image and what its layers' tars say.
type sample struct {
	*image.Image
	layers []*layer.Manifest
}

func samples(t *testing.T) (all []sample, joined *image.Image) {
	t.Helper()
	var images []*image.Image
	kinds := map[string]int{}
	for seed := range uint64(count) {
		spec := image.Varied(seed)
		img, err := image.Write(t.TempDir(), spec)
		if err != nil {
			t.Fatal(err)
		}
		s := sample{Image: img}
		for i, l := range spec.Layers {
			b, err := image.Tar(l)
			if err != nil {
				t.Fatal(err)
			}
			m, err := layer.FromTar(bytes.NewReader(b))
			if err != nil {
				t.Fatalf("image %d, layer %d: %v", seed, i, err)
			}
			s.layers = append(s.layers, m)
			kinds[img.Blobs[i].MediaType]++
			tell(m, kinds)
		}
		all, images = append(all, s), append(images, img)
	}
	// A generator that leaves something out shows nothing of it.
	for _, k := range []string{"whiteout", "opaque", "hard link", "setuid", "capability", "attribute", "not UTF-8", "long", "implied", "device", "symlink",
		"application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd"} {
		if kinds[k] < 3 {
			t.Errorf("%s: only %d in %d images", k, kinds[k], count)
		}
	}
	joined, err := image.Join(t.TempDir(), images)
	if err != nil {
		t.Fatal(err)
	}
	return all, joined
}

func tell(m *layer.Manifest, kinds map[string]int) {
	for _, r := range m.Records {
		for kind, is := range map[string]bool{
			"whiteout": r.Type == layer.Whiteout, "opaque": r.Opaque, "hard link": r.Group != "" && r.Group != r.Path, "setuid": r.Mode&0o4000 != 0,
			"not UTF-8": strings.Contains(r.Path, "\xff"), "long": len(r.Path) > 200, "implied": r.Type == layer.Implied, "device": r.Type == layer.Char,
			"symlink":    r.Type == layer.Symlink,
			"capability": hasXattr(r, "security.capability"), "attribute": hasXattr(r, "user.label"),
		} {
			if is {
				kinds[kind]++
			}
		}
	}
}

func hasXattr(r layer.Record, name string) bool {
	return slices.ContainsFunc(r.Xattrs, func(x layer.Xattr) bool { return x.Name == name })
}

// TestImports: every layer of every image measures to what its tar says, in
// directories of layers and in cumulative ones.
func TestImports(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	all, joined := samples(t)
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			t.Parallel()
			n, err := node.New(t.Context(), node.Options{Name: "equality", Line: line, Bare: true})
			skip.On(t, err)
			t.Cleanup(func() {
				if t.Failed() {
					n.DumpLogs(t.Output())
				}
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			})
			c, err := containerd.New(filepath.Join("/proc", fmt.Sprint(n.PID), "root/run/containerd/containerd.sock"), containerd.WithTimeout(2*time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
			for _, snapshotter := range []string{"overlayfs", "native"} {
				args := []string{"--snapshotter", snapshotter}
				if line == node.Line24 && snapshotter == "native" {
					// The daemon's own import unpacks for its default only.
					args = append(args, "--local")
				}
				if err := n.Import(t.Context(), joined, args...); err != nil {
					t.Fatal(err)
				}
				for _, s := range all {
					t.Run(snapshotter+" "+s.Name, func(t *testing.T) {
						ctx, done, err := c.WithLease(namespaces.WithNamespace(t.Context(), "default"))
						if err != nil {
							t.Fatal(err)
						}
						defer func() {
							if err := done(context.WithoutCancel(ctx)); err != nil {
								t.Error(err)
							}
						}()
						mounts, err := c.SnapshotService(snapshotter).View(ctx, "look", identity.ChainID(s.DiffIDs).String())
						if err != nil {
							t.Fatal(err)
						}
						root := filepath.Join("/proc", fmt.Sprint(n.PID), "root")
						if snapshotter == "native" {
							cumulative(t, s, filepath.Join(root, mounts[0].Source))
						} else {
							layers(t, s, root, lowers(mounts[0].Source, mounts[0].Options))
						}
						if err := c.SnapshotService(snapshotter).Remove(ctx, "look"); err != nil {
							t.Error(err)
						}
					})
				}
			}
		})
	}
}

// lowers are a view's layers, bottom first.
func lowers(source string, options []string) []string {
	for _, o := range options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			out := strings.Split(dirs, ":")
			slices.Reverse(out)
			return out
		}
	}
	return []string{source}
}

func layers(t *testing.T, s sample, root string, dirs []string) {
	if len(dirs) != len(s.layers) {
		t.Fatalf("%d directories of %d layers", len(dirs), len(s.layers))
	}
	var below []layer.Found
	for i, dir := range dirs {
		res, err := tree.Measure(t.Context(), filepath.Join(root, dir), tree.Options{Want: s.layers[i]})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range res.Differences {
			t.Errorf("layer %d: %v", i, d)
		}
		if got, want := res.Manifest.Digest(), s.layers[i].Digest(); got != want {
			t.Errorf("layer %d: %s, wanted %s", i, got, want)
		}
		found := layer.Found{Manifest: s.layers[i], Implied: res.Implied}
		for _, d := range layer.CheckImplied(found, below) {
			t.Errorf("layer %d: %v", i, d)
		}
		below = append([]layer.Found{found}, below...)
		if err := res.Binding.Close(); err != nil {
			t.Error(err)
		}
	}
}

func cumulative(t *testing.T, s sample, dir string) {
	want, err := layer.Merge(s.layers)
	if err != nil {
		t.Fatal(err)
	}
	res, err := tree.Measure(t.Context(), dir, tree.Options{Want: want, Native: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range res.Differences {
		t.Error(d)
	}
	if got := res.Manifest.TreeDigest(); got != want.TreeDigest() {
		t.Errorf("%s, wanted %s", got, want.TreeDigest())
	}
	if err := res.Binding.Close(); err != nil {
		t.Error(err)
	}
}
