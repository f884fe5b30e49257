package reference

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LayerDigester computes the layer digest, "sealift-layer-v1:<hex>", of an
// uncompressed layer tar. It need not read to the end.
type LayerDigester func(tar io.Reader) (string, error)

// ArchiveOptions say what FromArchive does.
type ArchiveOptions struct {
	Digest LayerDigester
	// Platform limits the images to one platform, "os/architecture[/variant]";
	// empty takes all that the archive holds.
	Platform string
	// Progress, when set, is called with each layer as it begins and as it ends.
	Progress func(Progress)
}

// Progress is how far FromArchive has come.
type Progress struct {
	Platform string `json:"platform"`
	// Layer counts from 1 to Layers.
	Layer  int    `json:"layer"`
	Layers int    `json:"layers"`
	DiffID string `json:"diffID"`
	Bytes  int64  `json:"bytes"`
	// Digest is set when the layer is done.
	Digest string `json:"digest,omitempty"`
}

// maxDocument bounds an index, manifest or configuration, in bytes.
const maxDocument = 4 << 20

// FromArchive computes the images of an OCI image layout: a directory, or a tar
// as `ctr images export`, `nerdctl save`, `skopeo copy … oci-archive:` and
// newer `docker save` write. Every blob is checked against its digest, every
// layer against its diffID. An index is followed; attestations and other
// things that are not images are passed over.
func FromArchive(ctx context.Context, file string, o ArchiveOptions) ([]Image, error) {
	l, err := openLayout(file)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", file, err)
	}
	defer l.Close()
	a := archive{layout: l, o: o}
	if err := a.index(ctx); err != nil {
		return nil, fmt.Errorf("archive %s: %w", file, err)
	}
	if len(a.images) == 0 {
		return nil, fmt.Errorf("archive %s: %w", file, a.none())
	}
	return a.images, nil
}

type archive struct {
	layout  layout
	o       ArchiveOptions
	images  []Image
	skipped []string // platforms
}

func (a *archive) none() error {
	if len(a.skipped) > 0 {
		return fmt.Errorf("no image for %s\nhint: it holds %s", a.o.Platform, strings.Join(a.skipped, ", "))
	}
	return errors.New("no image in it whose layers are all there\nhint: ctr images export FILE.tar IMAGE writes the platforms that were pulled")
}

func (a *archive) index(ctx context.Context) error {
	data, err := a.document("index.json")
	if errors.Is(err, fs.ErrNotExist) {
		return &NotLayoutError{}
	}
	if err != nil {
		return err
	}
	return a.follow(ctx, data, 0)
}

// follow walks an index.
func (a *archive) follow(ctx context.Context, data []byte, depth int) error {
	const maxDepth = 4
	if depth == maxDepth {
		return errors.New("index inside index inside index")
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	for _, d := range index.Manifests {
		data, err := a.blob(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a platform that was not pulled
		}
		if err != nil {
			return err
		}
		switch d.MediaType {
		case ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
			err = a.follow(ctx, data, depth+1)
		case ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json":
			err = a.manifest(ctx, d, data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) manifest(ctx context.Context, d ocispec.Descriptor, data []byte) error {
	if slices.ContainsFunc(a.images, func(im Image) bool { return im.Manifest == d.Digest.String() }) {
		return nil
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return nil // an artifact, not an image
	}
	data, err := a.blob(m.Config)
	if err != nil {
		return fmt.Errorf("manifest %s: configuration: %w", d.Digest, err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return fmt.Errorf("manifest %s: configuration: %w", d.Digest, err)
	}
	platform := path.Join(config.OS, config.Architecture, config.Variant)
	if platform == "unknown/unknown" {
		return nil // buildkit's attestations
	}
	if a.o.Platform != "" && platform != a.o.Platform {
		a.skipped = append(a.skipped, platform)
		return nil
	}
	if len(m.Layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("manifest %s: %d layers, but %d diffIDs in its configuration", d.Digest, len(m.Layers), len(config.RootFS.DiffIDs))
	}
	im := Image{Manifest: d.Digest.String(), Platform: platform}
	for i, l := range m.Layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := Progress{Platform: platform, Layer: i + 1, Layers: len(m.Layers), DiffID: config.RootFS.DiffIDs[i].String(), Bytes: l.Size}
		a.progress(p)
		digest, err := a.layer(l, p.DiffID)
		if err != nil {
			return fmt.Errorf("manifest %s: layer %s: %w", d.Digest, p.DiffID, err)
		}
		p.Digest = digest
		a.progress(p)
		im.Layers = append(im.Layers, Layer{DiffID: p.DiffID, Digest: digest})
	}
	a.images = append(a.images, im)
	return nil
}

func (a *archive) progress(p Progress) {
	if a.o.Progress != nil {
		a.o.Progress(p)
	}
}

// layer reads one layer once, for three digests: the blob's, the tar's, and the
// layer digest.
func (a *archive) layer(d ocispec.Descriptor, diffID string) (string, error) {
	blob, err := a.openBlob(d)
	if err != nil {
		return "", err
	}
	defer blob.Close()
	plain, err := decompress(d.MediaType, blob)
	if err != nil {
		return "", err
	}
	defer plain.Close()
	sum := sha256.New()
	tee := io.TeeReader(plain, sum)
	digest, err := a.o.Digest(tee)
	if err != nil {
		return "", err
	}
	// What follows the tar's end counts for both of the other digests.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return "", err
	}
	if err := blob.finish(); err != nil {
		return "", err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != diffID {
		return "", fmt.Errorf("the tar is %s, not the diffID of the configuration", got)
	}
	return digest, nil
}

// document reads a file of the layout that no digest names.
func (a *archive) document(name string) ([]byte, error) {
	r, err := a.layout.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxDocument)
	}
	return data, nil
}
