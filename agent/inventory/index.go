package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// notImageError is a manifest that describes something else than an image: a
// signature, an SBOM, an attestation.
type notImageError struct {
	manifest digest.Digest
	why      string
}

func (e *notImageError) Error() string {
	return fmt.Sprintf("manifest %s: %s: not an image", e.manifest, e.why)
}

// Bounds of an index: how deep one may lie in another, and how many manifests
// are looked at in all.
const (
	maxIndexDepth     = 4
	maxIndexManifests = 1024
)

// indexReader finds the images of an index and of those within it.
type indexReader struct {
	read   func(digest.Digest) ([]byte, error)
	target digest.Digest

	found []platformImage
	looks int
	// gone is why something was left out that may still come, odd why something
	// was that is no image.
	gone, odd error
}

type platformImage struct {
	image *Image
	p     ocispec.Platform
}

// candidates returns the images that index lists and that are on this host, best
// platform first.
func (r *indexReader) candidates(index []byte) (candidates, error) {
	if err := r.walk(r.target, index, 1); err != nil {
		return candidates{}, err
	}
	if len(r.found) == 0 {
		switch {
		case r.gone == nil && r.odd != nil:
			return candidates{}, fmt.Errorf("index %s: no platform's image: %w", r.target, r.odd)
		case r.gone == nil:
			r.gone = ErrNotFound
		}
		return candidates{}, fmt.Errorf("index %s: no platform's image: %w", r.target, r.gone)
	}
	order := platforms.Default()
	slices.SortStableFunc(r.found, func(a, b platformImage) int {
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
	out := candidates{whole: r.gone == nil}
	for _, c := range r.found {
		out.images = append(out.images, c.image)
	}
	return out, nil
}

func (r *indexReader) walk(index digest.Digest, b []byte, depth int) error {
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return fmt.Errorf("index %s: %w", index, err)
	}
	for _, m := range idx.Manifests {
		if m.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			continue
		}
		if r.looks++; r.looks > maxIndexManifests {
			return fmt.Errorf("index %s lists more than %d manifests", r.target, maxIndexManifests)
		}
		err := r.look(m, depth)
		var odd *notImageError
		switch {
		case errors.Is(err, ErrNotFound):
			r.gone = err
		case errors.As(err, &odd):
			// containerd never asks for it: it is no platform's.
			r.odd = err
		case err != nil:
			return err
		}
	}
	return nil
}

func (r *indexReader) look(m ocispec.Descriptor, depth int) error {
	b, err := r.read(m.Digest)
	if err != nil {
		return err
	}
	if isIndex(m.MediaType, b) {
		if depth == maxIndexDepth {
			return &notImageError{m.Digest, fmt.Sprintf("is an index %d deep in others", depth)}
		}
		return r.walk(m.Digest, b, depth+1)
	}
	i, p, err := fromManifest(m.Digest, b, r.read)
	if err != nil {
		return err
	}
	if m.Platform != nil {
		p = *m.Platform
	}
	i.Target = r.target
	r.found = append(r.found, platformImage{i, p})
	return nil
}
