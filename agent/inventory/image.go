package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one platform's image: everything in it follows from Manifest.
type Image struct {
	// Name is the reference it was asked for by; Target is what the name stands
	// for, an index or the manifest itself.
	Name             string
	Target           digest.Digest
	Manifest, Config digest.Digest
	Layers           []Layer
}

// Layer is one layer of an image.
type Layer struct {
	Blob      digest.Digest
	MediaType string
	Size      int64
	// DiffID is the digest of the uncompressed tar, by the image's configuration.
	DiffID digest.Digest
}

// ChainIDs are the names of the layers' snapshots, bottom first.
func (i *Image) ChainIDs() []string {
	ids := make([]digest.Digest, len(i.Layers))
	for n, l := range i.Layers {
		ids[n] = l.DiffID
	}
	var out []string
	for _, c := range identity.ChainIDs(ids) {
		out = append(out, c.String())
	}
	return out
}

const (
	// maxMetadata bounds a manifest, index or configuration, as registries do.
	maxMetadata = 8 << 20
	maxLayers   = 500
	// cachedImages bounds how many verified images are kept in memory.
	cachedImages = 4096
)

// Image resolves name. With a snapshot, the candidate of an index is chosen on
// whose layers the snapshot claims to stand; whether it does is for the caller
// to measure. Its error wraps ErrNotFound when name, or all of its content, is
// not there.
func (d *Daemon) Image(ctx context.Context, ns, name, snapshotter, snapshot string) (*Image, error) {
	target, mediaType, err := d.imageTarget(ctx, ns, name)
	if err != nil {
		return nil, err
	}
	all, err := d.candidates(ctx, ns, digest.Digest(target), mediaType)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	chosen := all[0]
	if len(all) > 1 && snapshot != "" {
		parent, err := d.parent(ctx, ns, snapshotter, snapshot)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		for _, c := range all {
			if ids := c.ChainIDs(); len(ids) > 0 && ids[len(ids)-1] == parent {
				chosen = c
				break
			}
		}
	}
	if err := d.unchanged(ctx, ns, chosen); err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	out := *chosen
	out.Name = name
	return &out, nil
}

// unchanged looks again at the blobs that say what an image is. What is known of
// them stays true, but containerd's clients read them each time, and make the
// arguments, environment and user of a new container from what they find. Blobs
// that are gone mislead nobody.
func (d *Daemon) unchanged(ctx context.Context, ns string, i *Image) error {
	root := d.contentRoot(ctx)
	for _, dgst := range []digest.Digest{i.Target, i.Manifest, i.Config} {
		if root == "" {
			if _, err := d.metadata(ctx, ns, dgst); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			continue
		}
		b, err := readBounded(blobFile(root, dgst))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("blob %s: %w", dgst, err)
		}
		if found := dgst.Algorithm().FromBytes(b); found != dgst {
			return &CorruptError{Wanted: dgst, Found: found}
		}
	}
	return nil
}

// readBounded reads a small file whole, and more than maxMetadata of a large one,
// so that it cannot have the digest of something that was read before.
func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxMetadata+1))
}

// ByManifest resolves a manifest that was seen before, if its content is still
// there or known.
func (d *Daemon) ByManifest(ctx context.Context, ns string, manifest digest.Digest) (*Image, error) {
	all, err := d.candidates(ctx, ns, manifest, ocispec.MediaTypeImageManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", manifest, err)
	}
	return all[0], nil
}

// candidates returns the images that target can mean on this host, best
// platform first, never none without an error.
func (d *Daemon) candidates(ctx context.Context, ns string, target digest.Digest, mediaType string) ([]*Image, error) {
	if c := d.images.get(target); c != nil {
		return c, nil
	}
	if err := target.Validate(); err != nil {
		return nil, fmt.Errorf("target %q: %w", target, err)
	}
	b, err := d.metadata(ctx, ns, target)
	if err != nil {
		return nil, err
	}
	var out []*Image
	if isIndex(mediaType, b) {
		out, err = d.fromIndex(ctx, ns, target, b)
	} else {
		var i *Image
		i, _, err = d.fromManifest(ctx, ns, target, b)
		out = []*Image{i}
	}
	if err != nil {
		return nil, err
	}
	d.images.put(target, out)
	return out, nil
}

func isIndex(mediaType string, b []byte) bool {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
		return true
	}
	var probe struct {
		Manifests json.RawMessage `json:"manifests"`
	}
	return json.Unmarshal(b, &probe) == nil && probe.Manifests != nil
}

func (d *Daemon) fromIndex(ctx context.Context, ns string, target digest.Digest, b []byte) ([]*Image, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, fmt.Errorf("index %s: %w", target, err)
	}
	type candidate struct {
		image *Image
		p     ocispec.Platform
	}
	var found []candidate
	var missing error = ErrNotFound
	for _, m := range idx.Manifests {
		if m.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			continue
		}
		mb, err := d.metadata(ctx, ns, m.Digest)
		if errors.Is(err, ErrNotFound) {
			missing = err
			continue
		}
		if err != nil {
			return nil, err
		}
		i, p, err := d.fromManifest(ctx, ns, m.Digest, mb)
		if errors.Is(err, ErrNotFound) {
			missing = err
			continue
		}
		if err != nil {
			return nil, err
		}
		if m.Platform != nil {
			p = *m.Platform
		}
		i.Target = target
		found = append(found, candidate{i, p})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("index %s: no platform's image: %w", target, missing)
	}
	order := platforms.Default()
	slices.SortStableFunc(found, func(a, b candidate) int {
		switch {
		case order.Match(a.p) != order.Match(b.p):
			if order.Match(a.p) {
				return -1
			}
			return 1
		case order.Less(a.p, b.p):
			return -1
		case order.Less(b.p, a.p):
			return 1
		}
		return 0
	})
	out := make([]*Image, len(found))
	for i, c := range found {
		out[i] = c.image
	}
	return out, nil
}

func (d *Daemon) fromManifest(ctx context.Context, ns string, manifest digest.Digest, b []byte) (*Image, ocispec.Platform, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, ocispec.Platform{}, fmt.Errorf("manifest %s: %w", manifest, err)
	}
	if m.Config.Digest == "" {
		return nil, ocispec.Platform{}, fmt.Errorf("manifest %s: names no configuration: not an image", manifest)
	}
	cb, err := d.metadata(ctx, ns, m.Config.Digest)
	if err != nil {
		return nil, ocispec.Platform{}, err
	}
	var c ocispec.Image
	if err := json.Unmarshal(cb, &c); err != nil {
		return nil, ocispec.Platform{}, fmt.Errorf("image configuration %s: %w", m.Config.Digest, err)
	}
	if len(m.Layers) != len(c.RootFS.DiffIDs) || len(m.Layers) > maxLayers {
		return nil, ocispec.Platform{}, fmt.Errorf("manifest %s has %d layers, its configuration %d (at most %d are read)", manifest, len(m.Layers), len(c.RootFS.DiffIDs), maxLayers)
	}
	i := &Image{Target: manifest, Manifest: manifest, Config: m.Config.Digest}
	for n, l := range m.Layers {
		diffID := c.RootFS.DiffIDs[n]
		if err := diffID.Validate(); err != nil {
			return nil, ocispec.Platform{}, fmt.Errorf("image configuration %s: diffID %q: %w", m.Config.Digest, diffID, err)
		}
		i.Layers = append(i.Layers, Layer{Blob: l.Digest, MediaType: l.MediaType, Size: l.Size, DiffID: diffID})
	}
	return i, c.Platform, nil
}

// imageCache holds what targets resolved to. A digest never comes to mean
// something else, so entries are dropped only for room.
type imageCache struct {
	mu sync.Mutex
	m  map[digest.Digest][]*Image
}

func newImageCache() *imageCache { return &imageCache{m: map[digest.Digest][]*Image{}} }

func (c *imageCache) get(d digest.Digest) []*Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[d]
}

func (c *imageCache) put(d digest.Digest, i []*Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.m {
		if len(c.m) < cachedImages {
			break
		}
		delete(c.m, k)
	}
	c.m[d] = i
}
