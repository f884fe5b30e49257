package launch

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/agent/inventory"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/chain"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
	"github.com/sealift/sealift/policy"
)

// unmeasured is the class of what policy says not to look at.
const unmeasured = "unmeasured"

// hintRefetch is what helps against content that was changed on disk.
const hintRefetch = "remove the container and the image, and pull the image again"

// root examines the mounted chain and measures what it is made of.
func (x *Examiner) root(ctx context.Context, d *inventory.Daemon, req *nodev1.LaunchRequest, c *inventory.Container, watched *Watched, f *Finding) {
	f.Record.Root.Upper = "none"
	ch, err := chain.Parse(req.GetRootfs())
	if err != nil {
		f.content("mount-type", "rootfs", err)
		return
	}
	f.Record.Root.Kind, f.Record.Root.ReadOnly, f.Record.Root.Options = string(ch.Kind), ch.ReadOnly, ch.Options
	if err := chain.Resolve(ch); err != nil {
		f.content("mount-type", "rootfs", err)
		return
	}
	f.chain = ch
	f.remapping()
	if f.Effective.Content == policy.Off {
		f.Record.Root.Class = unmeasured
		r, err := chain.ExamineRoot(ch.Upper, f.owner)
		f.clean = err == nil && (r.Empty || watched.is(ch.Upper, r))
		x.remember(req, c, ch, f)
		return
	}
	switch {
	case ch.Kind == chain.Plain || !f.Facts.HasImage:
		x.withoutImage(ctx, req, f)
		if ch.Upper == "" {
			return
		}
		x.upper(ctx, d, req, c, watched, f)
	case f.Image == nil:
		// That the image could not be read has been said.
		return
	case c.Snapshotter == "native":
		x.native(ctx, d, req, watched, f)
	default:
		x.layers(ctx, d, req, f)
		x.upper(ctx, d, req, c, watched, f)
	}
	x.remember(req, c, ch, f)
}

// layers measures each lower against the image's layer at its place.
func (x *Examiner) layers(ctx context.Context, d *inventory.Daemon, req *nodev1.LaunchRequest, f *Finding) {
	lowers := f.chain.Lowers
	image := f.Image.Layers
	if f.chain.Kind == chain.Bind {
		// One directory is the view of a single layer, or the empty root of an
		// image that has none.
		if len(image) == 0 {
			lowers = nil
			f.chain.Upper = f.chain.Lowers[0].Dir
		} else if !f.chain.ReadOnly {
			f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: "layer-count", Subject: "rootfs", Message: "the image's layer is mounted writable"})
		}
	}
	chowned := f.Record.Root.Remap != nil && f.Record.Root.Remap.How == byChown
	if chowned {
		lowers = lowers[:len(image)]
	}
	if len(lowers) != len(image) {
		f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: "layer-count", Subject: "rootfs",
			Message: fmt.Sprintf("%d layers are mounted, and the image %s has %d", len(lowers), f.Image.Name, len(image)),
			Hint:    "recreate the container: its snapshot was made from something else than its image"})
		return
	}
	type result struct {
		rec     LayerRecord
		reasons []*nodev1.Reason
		class   tree.Class
	}
	results := make([]result, len(lowers))
	measured := make([]*Measured, len(lowers))
	var wg sync.WaitGroup
	for i := range lowers {
		wg.Go(func() {
			r := &results[i]
			r.rec.DiffID = image[i].DiffID.String()
			m, want, err := x.layer(ctx, d, req.GetNamespace(), lowers[i], image[i], f.signedDigests(image[i]), nil, false)
			if want != (layer.Digest{}) {
				r.rec.Wanted = want.String()
			}
			if err != nil {
				r.rec.Class = string(tree.ClassNone)
				r.reasons = append(r.reasons, layerError(image[i], lowers[i], err))
				return
			}
			measured[i] = m
			r.rec.Found, r.rec.Class, r.rec.Why, r.class = m.Digest.String(), string(m.Class), m.Why, m.Class
			if m.Digest != want || len(m.Differences) > 0 {
				r.reasons = append(r.reasons, differences(layerName(i, image[i]), want.String(), m.Digest.String(), m.Differences)...)
			}
		})
	}
	wg.Wait()
	var wrong []*nodev1.Reason
	if len(lowers) > 0 {
		wrong = x.implied(ctx, d, req.GetNamespace(), image, lowers, measured)
	}
	weakest := tree.Class("")
	for _, r := range results {
		f.Record.Root.Layers = append(f.Record.Root.Layers, r.rec)
		wrong = append(wrong, r.reasons...)
		weakest = weaker(weakest, r.class)
	}
	if len(wrong) == 0 {
		f.measured = measured
	}
	if chowned {
		rec, reasons := x.remapped(ctx, d, req.GetNamespace(), f)
		f.Record.Root.Layers = append(f.Record.Root.Layers, rec)
		wrong = append(wrong, reasons...)
		weakest = weaker(weakest, tree.Class(rec.Class))
	}
	f.Facts.Content = append(f.Facts.Content, wrong...)
	f.setClass(weakest)
}

// layer measures one lower and says what it should have measured to. A signed
// reference stands in where the blob is gone, and must agree where it is there.
func (x *Examiner) layer(ctx context.Context, d *inventory.Daemon, ns string, lower chain.Lower, l inventory.Layer, signed []layer.Digest, progress func(files, bytes int64), force bool) (*Measured, layer.Digest, error) {
	want, err := x.References.Digest(ctx, ns, l, d)
	if errors.Is(err, inventory.ErrNotFound) && len(signed) > 0 {
		want, err = signed[0], nil
	}
	if err != nil {
		return nil, want, err
	}
	for _, s := range signed {
		if s != want {
			return nil, want, &disagreement{Signed: s, Computed: want}
		}
	}
	m, err := x.Layers.Measure(ctx, lower.Path(), Options{Blob: lower.Blob != "", Force: force, Progress: progress, Wanted: want,
		Want: func() (*layer.Manifest, error) { return x.References.Manifest(ctx, ns, l, want, d) }})
	return m, want, err
}

// disagreement is a signed reference that names another digest than the blob
// measures to, or than another signed one.
type disagreement struct{ Signed, Computed layer.Digest }

func (e *disagreement) Error() string {
	return fmt.Sprintf("the signed reference says %s, the layer's tar measures to %s", e.Signed, e.Computed)
}

// signedDigests are what signed references say of the layer.
func (f *Finding) signedDigests(l inventory.Layer) []layer.Digest {
	var out []layer.Digest
	for _, s := range f.signed {
		for _, sl := range s.Image.Layers {
			if sl.DiffID != l.DiffID.String() {
				continue
			}
			if d, err := layer.ParseDigest(sl.Digest); err == nil {
				out = append(out, d)
			}
		}
	}
	return out
}

func (f *Finding) setClass(c tree.Class) {
	f.Facts.Class, f.Record.Root.Class = string(c), string(c)
}

func layerError(l inventory.Layer, lower chain.Lower, err error) *nodev1.Reason {
	r := &nodev1.Reason{Code: "layer-unreadable", Layer: l.DiffID.String(), Subject: lower.Path(), Message: err.Error()}
	var corrupt *inventory.CorruptError
	var meaningless *layer.MeaninglessError
	var disagree *disagreement
	switch {
	case errors.As(err, &corrupt):
		r.Code, r.Hint = "blob-content", hintRefetch
		r.Message, r.Wanted, r.Found = "the stored blob is not what its digest says", corrupt.Wanted.String(), corrupt.Found.String()
	case errors.As(err, &disagree):
		r.Code, r.Hint = "reference-disagrees", "find out who changed what: the publisher's reference and the image's own blob are two different layers"
	case errors.As(err, &meaningless):
		r.Code, r.Hint = "layer-meaningless", "docs/layer-digest.md lists what has no single meaning; rebuild the image without it"
	case errors.Is(err, inventory.ErrNotFound):
		r.Code = "reference-missing"
		r.Message = "its blob is no longer in the content store, so there is nothing to compare with"
		r.Hint = "pull the image again (and set discard_unpacked_layers = false), or import a signed reference: sealift reference import"
	}
	return r
}

// describe says what each kind of difference is, for a person.
var describe = map[string]string{
	layer.KindContent: "content differs from the image", layer.KindSize: "size differs from the image",
	layer.KindMode: "mode differs from the image", layer.KindOwner: "owner differs from the image",
	layer.KindXattr: "extended attribute differs from the image", layer.KindLink: "link target differs from the image",
	layer.KindType: "is of another type than in the image", layer.KindAdded: "is not in the image",
	layer.KindMissing: "is in the image and missing on disk", layer.KindHardlink: "hard links differ from the image",
	layer.KindDevice: "device number differs from the image", layer.KindMTime: "modification time differs from the image",
	layer.KindOpaque: "opaque mark differs from the image", layer.KindWhiteout: "whiteout differs from the image",
	layer.KindRedirect: "has an overlay redirect, which no image has", layer.KindMetacopy: "has an overlay metacopy mark, which no image has",
	layer.KindOverlayXattr: "has an overlay attribute, which no image has", layer.KindMount: "something is mounted on it",
	layer.KindChanging: "changed while it was measured", layer.KindImplied: "has attributes that an unnamed directory cannot have",
}

// maxDifferences bounds how many files of one layer are told.
const maxDifferences = 16

func differences(name, want, found string, diffs []layer.Difference) []*nodev1.Reason {
	var out []*nodev1.Reason
	for i, d := range diffs {
		if i == maxDifferences {
			out = append(out, &nodev1.Reason{Code: "layer-content", Layer: name, Subject: "layer", Message: fmt.Sprintf("%d more differences", len(diffs)-i)})
			break
		}
		out = append(out, &nodev1.Reason{Code: "layer-content", Layer: name, Path: "/" + d.Path, Message: describe[d.Kind],
			Wanted: d.Wanted, Found: d.Found, Hint: hintRefetch})
	}
	if len(out) == 0 {
		out = append(out, &nodev1.Reason{Code: "layer-content", Layer: name, Subject: "layer", Message: "digest differs from the image",
			Wanted: want, Found: found, Hint: hintRefetch})
	}
	return out
}

func layerName(n int, l inventory.Layer) string { return fmt.Sprintf("%d %s", n+1, l.DiffID) }

func (f *Finding) rootAttributes(top chain.Lower) {
	if top.Blob == "" {
		if _, err := chain.ExamineRoot(top.Dir, f.owner); err != nil {
			f.content("root-attributes", "root directory "+top.Dir, err)
		}
		return
	}
	if top.Mountpoint == "" {
		f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: "root-attributes", Subject: "image file " + top.Blob,
			Message: "is not mounted, so that its root cannot be looked at"})
		return
	}
	if _, err := chain.ExamineImageRoot(top.Mountpoint); err != nil {
		f.content("root-attributes", "root directory "+top.Mountpoint, err)
	}
}

// withoutImage measures a root that no image stands behind, as one tree.
func (x *Examiner) withoutImage(ctx context.Context, req *nodev1.LaunchRequest, f *Finding) {
	f.Facts.HasImage = false
	dir := ""
	switch {
	case f.chain.Kind == chain.Plain:
		dir = f.Spec.Root.Path
	case f.chain.Kind == chain.Bind:
		dir = f.chain.Lowers[0].Dir
	case len(f.chain.Lowers) == 1 && f.chain.Lowers[0].Dir != "":
		dir = f.chain.Lowers[0].Dir
	default:
		f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: "no-image", Subject: "rootfs", Message: "a stack of layers without an image cannot be compared with anything"})
		return
	}
	res, err := tree.Measure(ctx, dir, tree.Options{Native: true})
	if err != nil {
		f.content("layer-unreadable", "rootfs "+dir, err)
		return
	}
	digest := res.Manifest.TreeDigest().String()
	if len(res.Differences) > 0 {
		// They are not in the digest: a mount inside, an attribute nobody knows.
		f.Facts.Content = append(f.Facts.Content, differences("rootfs", "", "", res.Differences)...)
	}
	f.Record.Root.Layers = []LayerRecord{{Found: digest, Class: string(tree.ClassNone), Why: "a directory outside any snapshotter"}}
	f.Facts.Subject.TreeDigest = digest
	f.Effective = x.Policies().Evaluate(f.Facts.Subject)
	f.Record.Root.Class = string(tree.ClassNone)
}

// remember prepares the record by which a restart of this container is known.
func (x *Examiner) remember(req *nodev1.LaunchRequest, c *inventory.Container, ch *chain.Chain, f *Finding) {
	dir := ch.Upper
	if dir == "" && ch.Kind == chain.Bind && !ch.ReadOnly {
		dir = ch.Lowers[0].Dir
	}
	if dir == "" || c.Created.IsZero() {
		return
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return
	}
	f.Watched = &Watched{Namespace: req.GetNamespace(), ID: req.GetId(), Created: c.Created, Upper: dir, Dev: uint64(st.Dev), Ino: st.Ino, Clean: f.clean}
	if f.Image != nil {
		f.Watched.Manifest = f.Image.Manifest.String()
	}
}

func digestOf(s string) digest.Digest { return digest.Digest(s) }
