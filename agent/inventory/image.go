package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

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
	chosen, err := d.choose(ctx, ns, digest.Digest(target), mediaType, snapshotter, snapshot)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	if err := d.unchanged(ctx, ns, chosen); err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	out := *chosen
	out.Name = name
	return &out, nil
}

// choose picks the candidate on whose layers the snapshot claims to stand, else
// the best platform's. Of an index, another platform's image may have been pulled
// since it was read: what is known of it is enough only for a snapshot that
// stands on a known candidate.
func (d *Daemon) choose(ctx context.Context, ns string, target digest.Digest, mediaType, snapshotter, snapshot string) (*Image, error) {
	all, cached, err := d.candidates(ctx, ns, target, mediaType)
	if err != nil {
		return nil, err
	}
	if len(all.images) == 1 && all.whole {
		return all.images[0], nil
	}
	parent := ""
	if snapshot != "" {
		if parent, err = d.parent(ctx, ns, snapshotter, snapshot); err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	if i := all.on(parent); i != nil {
		return i, nil
	}
	if cached && !all.whole {
		d.images.drop(target)
		now, _, err := d.candidates(ctx, ns, target, mediaType)
		switch {
		case errors.Is(err, ErrNotFound): // its content is gone; what is known of it stays true
			d.images.put(target, all)
		case err != nil:
			return nil, err
		default:
			all = now
		}
	}
	if i := all.on(parent); i != nil {
		return i, nil
	}
	return all.images[0], nil
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
	all, _, err := d.candidates(ctx, ns, manifest, ocispec.MediaTypeImageManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", manifest, err)
	}
	return all.images[0], nil
}

// candidates are the images that a target can mean, never none.
type candidates struct {
	images []*Image // best platform first
	// whole says that nothing that the target lists was missing.
	whole bool
}

// on returns the candidate whose layers end in the snapshot name.
func (c candidates) on(name string) *Image {
	for _, i := range c.images {
		if ids := i.ChainIDs(); len(ids) > 0 && ids[len(ids)-1] == name {
			return i
		}
	}
	return nil
}

// candidates returns the images that target can mean on this host, and whether
// they were known already.
func (d *Daemon) candidates(ctx context.Context, ns string, target digest.Digest, mediaType string) (candidates, bool, error) {
	if c, ok := d.images.get(target); ok {
		return c, true, nil
	}
	if err := target.Validate(); err != nil {
		return candidates{}, false, fmt.Errorf("target %q: %w", target, err)
	}
	b, err := d.metadata(ctx, ns, target)
	if err != nil {
		return candidates{}, false, err
	}
	out := candidates{whole: true}
	if isIndex(mediaType, b) {
		r := indexReader{read: func(dgst digest.Digest) ([]byte, error) { return d.metadata(ctx, ns, dgst) }, target: target}
		out, err = r.candidates(b)
	} else {
		var i *Image
		i, _, err = fromManifest(target, b, func(dgst digest.Digest) ([]byte, error) { return d.metadata(ctx, ns, dgst) })
		out.images = []*Image{i}
	}
	if err != nil {
		return candidates{}, false, err
	}
	d.images.put(target, out)
	return out, false, nil
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

func fromManifest(manifest digest.Digest, b []byte, read func(digest.Digest) ([]byte, error)) (*Image, ocispec.Platform, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, ocispec.Platform{}, fmt.Errorf("manifest %s: %w", manifest, err)
	}
	if m.Config.Digest == "" {
		return nil, ocispec.Platform{}, &notImageError{manifest, "names no configuration"}
	}
	cb, err := read(m.Config.Digest)
	if err != nil {
		return nil, ocispec.Platform{}, err
	}
	var c ocispec.Image
	if err := json.Unmarshal(cb, &c); err != nil {
		return nil, ocispec.Platform{}, fmt.Errorf("image configuration %s: %w", m.Config.Digest, err)
	}
	if len(m.Layers) != len(c.RootFS.DiffIDs) || len(m.Layers) > maxLayers {
		return nil, ocispec.Platform{}, &notImageError{manifest, fmt.Sprintf("has %d layers, its configuration %d (at most %d are read)", len(m.Layers), len(c.RootFS.DiffIDs), maxLayers)}
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
	m  map[digest.Digest]candidates
}

func newImageCache() *imageCache { return &imageCache{m: map[digest.Digest]candidates{}} }

func (c *imageCache) get(d digest.Digest) (candidates, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.m[d]
	return i, ok
}

func (c *imageCache) drop(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, d)
}

func (c *imageCache) put(d digest.Digest, i candidates) {
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
