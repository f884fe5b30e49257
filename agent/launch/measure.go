package launch

import (
	"context"
	"fmt"

	"github.com/sealift/sealift/agent/inventory"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/chain"
)

// MeasureLayers measures the layers of an unpacked image and tells each step;
// it returns what is not as the image says.
func (x *Examiner) MeasureLayers(ctx context.Context, d *inventory.Daemon, ns string, img *inventory.Image, lowers []chain.Lower, force bool, tell func(*nodev1.MeasureUpdate) error) ([]*nodev1.Reason, error) {
	if len(lowers) != len(img.Layers) {
		return []*nodev1.Reason{{Code: "layer-count", Subject: "image " + img.Name,
			Message: fmt.Sprintf("%d layers are unpacked, and the image has %d", len(lowers), len(img.Layers)), Hint: hintRefetch}}, nil
	}
	var all []*nodev1.Reason
	for n, l := range img.Layers {
		var last error
		progress := func(files, bytes int64) {
			if err := tell(&nodev1.MeasureUpdate{Layer: l.DiffID.String(), State: "measuring", FilesDone: uint64(files), BytesDone: uint64(bytes)}); err != nil {
				last = err
			}
		}
		m, want, err := x.layer(ctx, d, ns, lowers[n], l, nil, progress, force)
		if err == nil {
			err = last
		}
		if err != nil {
			return all, err
		}
		u := &nodev1.MeasureUpdate{Layer: l.DiffID.String(), State: "bound", Digest: m.Digest.String(), Binding: string(m.Class)}
		if m.Digest != want || len(m.Differences) > 0 {
			u.State, u.Reasons = "mismatch", differences(layerName(n, l), want.String(), m.Digest.String(), m.Differences)
			all = append(all, u.Reasons...)
		}
		if err := tell(u); err != nil {
			return all, err
		}
	}
	return all, nil
}
