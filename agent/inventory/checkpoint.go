package inventory

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Checkpoint is a container's checkpoint with a writable layer, as containerd
// stores it: an index that names the layer itself.
type Checkpoint struct {
	Index digest.Digest
	// Layer is the writable layer. Its DiffID is not known.
	Layer Layer
	// images are the images it was taken of, by digest where it includes them;
	// else name is what it calls the image.
	images []digest.Digest
	name   string
}

// The annotations by which containerd names the image of a checkpoint of a
// container and of a task (checkpointImageNameLabel, Task.Checkpoint).
const taskImageName = "image.name"

// Of says whether the checkpoint was taken of a container of the image; nil
// stands for a container without one.
func (c *Checkpoint) Of(i *Image) bool {
	switch {
	case i == nil:
		return c.name == "" && len(c.images) == 0
	case len(c.images) > 0:
		return slices.Contains(c.images, i.Manifest) || slices.Contains(c.images, i.Target)
	}
	return c.name == i.Name
}

// Checkpoints lists the namespace's checkpoints that have a writable layer.
func (d *Daemon) Checkpoints(ctx context.Context, ns string) ([]Checkpoint, error) {
	names, err := d.ImageNames(ctx, ns)
	if err != nil {
		return nil, err
	}
	var out []Checkpoint
	for _, name := range names {
		target, mediaType, err := d.imageTarget(ctx, ns, name)
		if err != nil || !isIndex(mediaType, nil) {
			continue
		}
		b, err := d.metadata(ctx, ns, digest.Digest(target))
		if err != nil {
			continue // what cannot be read vouches for nothing
		}
		out = append(out, checkpoints(digest.Digest(target), b)...)
	}
	return out, nil
}

// checkpoints reads an index, which is a checkpoint if it names layers.
func checkpoints(index digest.Digest, b []byte) (out []Checkpoint) {
	var idx ocispec.Index
	if json.Unmarshal(b, &idx) != nil {
		return nil
	}
	name := idx.Annotations[ocispec.AnnotationRefName]
	if name == "" {
		name = idx.Annotations[taskImageName]
	}
	var images []digest.Digest
	for _, m := range idx.Manifests {
		switch m.MediaType {
		case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
			"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json":
			images = append(images, m.Digest)
		case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd:
			out = append(out, Checkpoint{Index: index, Layer: Layer{Blob: m.Digest, MediaType: m.MediaType, Size: m.Size}})
		}
	}
	for i := range out {
		out[i].images, out[i].name = images, name
	}
	return out
}
