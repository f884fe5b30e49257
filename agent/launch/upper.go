package launch

import (
	"context"
	"slices"

	"github.com/sealift/sealift/agent/inventory"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/chain"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// upper accepts a writable layer that is empty, a checkpoint's, or the work of
// a container that has been watched since its first start.
func (x *Examiner) upper(ctx context.Context, d *inventory.Daemon, req *nodev1.LaunchRequest, c *inventory.Container, watched *Watched, f *Finding) {
	if f.chain.Upper == "" {
		if len(f.chain.Lowers) > 0 {
			// Without an upper the topmost layer's own attributes are the root's.
			f.rootAttributes(f.chain.Lowers[len(f.chain.Lowers)-1])
		}
		return
	}
	r, err := chain.ExamineRoot(f.chain.Upper, f.owner)
	switch {
	case watched.is(f.chain.Upper, r) && (err != nil || !r.Empty):
		// Its attributes are its own work too.
		f.Record.Root.Upper, f.clean = "restart", true
		return
	case err != nil:
		f.content("upper", "writable layer "+f.chain.Upper, err)
		f.Record.Root.Upper = "unexpected"
		return
	case r.Empty:
		f.Record.Root.Upper, f.clean = "empty", true
		return
	}
	found, err := x.checkpointUpper(ctx, d, req.GetNamespace(), f)
	if err != nil {
		f.content("upper", "writable layer "+f.chain.Upper, err)
	}
	if found {
		f.Record.Root.Upper, f.clean = "restored", true
		return
	}
	f.Record.Root.Upper = "unexpected"
	f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: "upper-not-empty", Path: "/" + r.FirstEntry,
		Message: "is in the writable layer before the container's first start",
		Hint:    "recreate the container; a writable layer is accepted when it is a checkpoint's of the same image, or of a container that first started under Sealift"})
}

// checkpointUpper compares a writable layer with those of the checkpoints that
// the namespace has of this very image: what one container wrote is no other
// image's content.
func (x *Examiner) checkpointUpper(ctx context.Context, d *inventory.Daemon, ns string, f *Finding) (bool, error) {
	known, err := d.Checkpoints(ctx, ns)
	if err != nil {
		return false, err
	}
	var seen *tree.Result
	var wrong []*nodev1.Reason
	for i := range known {
		c := &known[i]
		if !c.Of(f.Image) {
			continue
		}
		want, err := x.References.Checkpoint(ctx, ns, c.Layer, d)
		if err != nil {
			continue // one that cannot be read is not the one this upper equals
		}
		if seen == nil {
			// Looked at once to find which it is, and again to compare with that.
			if seen, err = tree.Measure(ctx, f.chain.Upper, tree.Options{}); err != nil {
				return false, err
			}
			f.Record.Root.UpperDigest = seen.Manifest.Digest().String()
			if len(seen.Differences) > 0 {
				// What no manifest can hold is in no checkpoint's either.
				return false, &chain.Problem{Code: "upper-not-empty", Subject: "writable layer " + f.chain.Upper, Message: seen.Differences[0].String()}
			}
		}
		if len(layer.Compare(want, seen.Manifest)) > 0 {
			continue
		}
		wrong, err = x.equalUpper(ctx, d, ns, want, f)
		if err != nil {
			return false, err
		}
		if len(wrong) == 0 {
			f.Record.Root.UpperDigest, f.Record.Root.UpperCheckpoint = want.Digest().String(), c.Index.String()
			return true, nil
		}
	}
	f.Facts.Content = append(f.Facts.Content, wrong...)
	return false, nil
}

// equalUpper says how the writable layer is not what want says, with what a
// manifest cannot hold: names outside, what unnamed directories look like.
func (x *Examiner) equalUpper(ctx context.Context, d *inventory.Daemon, ns string, want *layer.Manifest, f *Finding) ([]*nodev1.Reason, error) {
	res, err := tree.Measure(ctx, f.chain.Upper, tree.Options{Want: want})
	if err != nil {
		return nil, err
	}
	diffs := res.Differences
	if len(diffs) == 0 && len(res.Implied) > 0 {
		var below []layer.Found
		if f.measured != nil {
			if below, err = x.found(ctx, d, ns, f.Image.Layers, f.measured); err != nil {
				return nil, err
			}
			slices.Reverse(below)
		}
		diffs = layer.CheckImplied(layer.Found{Manifest: want, Implied: res.Implied}, below)
	}
	if len(diffs) == 0 && res.Manifest.Digest() == want.Digest() {
		return nil, nil
	}
	return withHint(differences("writable layer", want.Digest().String(), res.Manifest.Digest().String(), diffs),
		"delete the container and restore it from its checkpoint again"), nil
}
