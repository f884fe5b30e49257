package launch

import (
	"context"

	"github.com/sealift/sealift/agent/inventory"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/chain"
	"github.com/sealift/sealift/measure/layer"
)

// native measures the native snapshotter's copy against the merged layers.
func (x *Examiner) native(ctx context.Context, d *inventory.Daemon, req *nodev1.LaunchRequest, watched *Watched, f *Finding) {
	if f.chain.Kind != chain.Bind {
		f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: "mount-type", Subject: "rootfs", Message: "the native snapshotter mounts one directory, and this is " + string(f.chain.Kind)})
		return
	}
	dir := f.chain.Lowers[0].Dir
	// What is wrong with it is asked again below, where it is not the container's
	// own work.
	if r, _ := chain.ExamineRoot(dir, f.owner); watched.is(dir, r) {
		f.Record.Root.Upper, f.Record.Root.Class = "restart", unmeasured
		return
	}
	manifests := make([]*layer.Manifest, len(f.Image.Layers))
	for i, l := range f.Image.Layers {
		want, err := x.References.Digest(ctx, req.GetNamespace(), l, d)
		if err == nil {
			manifests[i], err = x.References.Manifest(ctx, req.GetNamespace(), l, want, d)
		}
		if err == nil && manifests[i] == nil {
			err = inventory.ErrNotFound
		}
		if err != nil {
			f.Facts.Content = append(f.Facts.Content, layerError(l, chain.Lower{Dir: dir}, err))
			return
		}
	}
	want, err := layer.Merge(manifests)
	if err == nil {
		want, err = f.remappedTree(dir, want)
	}
	if err != nil {
		f.content("layer-meaningless", "rootfs", err)
		return
	}
	if f.Record.Root.Remap != nil {
		f.owner, _ = f.userns.root()
	}
	if _, err := chain.ExamineRoot(dir, f.owner); err != nil {
		f.content("root-attributes", "root directory "+dir, err)
	}
	m, err := x.Layers.Measure(ctx, dir, Options{Native: true, Want: func() (*layer.Manifest, error) { return want, nil }})
	if err != nil {
		f.content("layer-unreadable", "rootfs "+dir, err)
		return
	}
	f.Record.Root.Upper = "empty"
	f.clean = true
	rec := LayerRecord{Wanted: want.TreeDigest().String(), Found: m.Tree.String(), Class: string(m.Class), Why: m.Why}
	f.Record.Root.Layers = []LayerRecord{rec}
	f.setClass(m.Class)
	if rec.Wanted != rec.Found || len(m.Differences) > 0 {
		f.Facts.Content = append(f.Facts.Content, differences("of all layers", rec.Wanted, rec.Found, m.Differences)...)
	}
}
