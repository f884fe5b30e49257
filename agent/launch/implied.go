package launch

import (
	"context"

	"github.com/sealift/sealift/agent/inventory"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/chain"
	"github.com/sealift/sealift/measure/layer"
)

// implied judges the directories that no tar names: what they look like follows
// from the layers below theirs, so it can only be told of a whole chain. It says
// nothing while a layer is missing or wrong: that has been said.
func (x *Examiner) implied(ctx context.Context, d *inventory.Daemon, ns string, image []inventory.Layer, lowers []chain.Lower, measured []*Measured) []*nodev1.Reason {
	key := chainKey(measured)
	if x.Layers.isJudged(key) {
		return nil
	}
	found := make([]layer.Found, len(measured))
	var out []*nodev1.Reason
	for i, m := range measured {
		if m == nil || len(m.Differences) > 0 {
			return nil
		}
		found[i].Implied, found[i].Image = m.Implied, lowers[i].Blob != ""
		if len(m.Implied) == 0 {
			continue
		}
		// The manifests are the references': the digests are equal.
		for j := range i + 1 {
			if found[j].Manifest != nil {
				continue
			}
			ref, err := x.References.Manifest(ctx, ns, image[j], measured[j].Digest, d)
			if err == nil && ref == nil {
				err = inventory.ErrNotFound
			}
			if err != nil {
				return append(out, layerError(image[j], chain.Lower{}, err))
			}
			found[j].Manifest = ref
		}
		below := make([]layer.Found, i)
		for j := range i {
			below[i-1-j] = found[j]
		}
		if diffs := layer.CheckImplied(found[i], below); len(diffs) > 0 {
			out = append(out, differences(layerName(i, image[i]), "", "", diffs)...)
		}
	}
	if len(out) == 0 {
		x.Layers.setJudged(key)
	}
	return out
}
