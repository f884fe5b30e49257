package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/proto"

	"github.com/sealift/sealift/agent/inventory"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/chain"
)

// images measures what containerd has unpacked, so that a first start finds its
// layers bound.
type images struct {
	a  *Agent
	mu sync.Mutex
	// states are what became of each image, by namespace, name and target.
	states map[imageKey]*nodev1.ImageState
}

type imageKey struct{ ns, name, target, snapshotter string }

func newImages(a *Agent) *images { return &images{a: a, states: map[imageKey]*nodev1.ImageState{}} }

// settle lets a burst of events (an unpack commits one snapshot a layer) pass.
const settle = 300 * time.Millisecond

// follow watches one daemon until ctx ends: new images are measured, removed
// containers forgotten, new tasks counted.
func (a *Agent) follow(ctx context.Context, d *inventory.Daemon) {
	work := make(chan struct{}, 1)
	poke := func() {
		select {
		case work <- struct{}{}:
		default:
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if a.config.Measure.Background {
		wg.Go(func() {
			for {
				select {
				case <-work:
				case <-ctx.Done():
					return
				}
				select {
				case <-time.After(settle):
				case <-ctx.Done():
					return
				}
				a.images.sweep(ctx, d)
				a.examiner.Layers.Prune()
			}
		})
	}
	for ctx.Err() == nil {
		poke()
		err := d.Events(ctx, func(e inventory.Event) { a.onEvent(e, poke) },
			"/images/create", "/images/update", "/snapshot/commit", "/snapshot/remove", "/containers/delete", "/tasks/create", "/tasks/start")
		if ctx.Err() != nil {
			return
		}
		slog.Debug("containerd events", "address", d.Address(), "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (a *Agent) onEvent(e inventory.Event, poke func()) {
	switch e.Topic {
	case "/containers/delete":
		var c eventstypes.ContainerDelete
		if err := proto.Unmarshal(e.Value, &c); err != nil || c.GetID() == "" {
			return
		}
		err := a.examiner.Watch.Remove(e.Namespace, c.GetID())
		// One that was never reported as ended may still be: its shim was killed,
		// and the clean-up after it speaks later. The census forgets it otherwise.
		if known, ok := a.registry.get(e.Namespace, c.GetID()); ok && known.State == "stopped" {
			err = errors.Join(err, a.registry.remove(e.Namespace, c.GetID()))
		}
		if err != nil {
			slog.Warn("forgetting a container", "namespace", e.Namespace, "container", c.GetID(), "err", err)
		}
	case "/tasks/create", "/tasks/start":
		select {
		case a.recount <- struct{}{}:
		default:
		}
	default:
		poke()
	}
}

// sweep measures every image of the daemon that is unpacked and not yet known.
func (i *images) sweep(ctx context.Context, d *inventory.Daemon) {
	namespaces, err := d.Namespaces(ctx)
	if err != nil {
		return // follow tries again when the daemon is back
	}
	snapshotters, err := d.Snapshotters(ctx)
	if err != nil {
		return
	}
	for _, ns := range namespaces {
		names, err := d.ImageNames(ctx, ns)
		if err != nil {
			continue
		}
		for _, name := range names {
			for _, s := range snapshotters {
				if ctx.Err() != nil {
					return
				}
				i.once(ctx, d, ns, name, s)
			}
		}
	}
}

func (i *images) once(ctx context.Context, d *inventory.Daemon, ns, name, snapshotter string) {
	img, err := d.Image(ctx, ns, name, "", "")
	if err != nil {
		return // not an image, or not all of it is here yet
	}
	key := imageKey{ns, name, img.Target.String(), snapshotter}
	i.mu.Lock()
	_, done := i.states[key]
	i.mu.Unlock()
	if done || len(img.Layers) == 0 {
		return
	}
	unpacked, err := d.HasSnapshot(ctx, ns, snapshotter, img.ChainIDs()[len(img.Layers)-1])
	if err != nil || !unpacked {
		return
	}
	i.set(key, img, "measuring", "")
	reasons, err := i.measure(ctx, d, ns, img, snapshotter, false, func(*nodev1.MeasureUpdate) error { return nil })
	switch {
	case err != nil && ctx.Err() != nil:
		i.mu.Lock()
		delete(i.states, key)
		i.mu.Unlock()
	case err != nil:
		i.set(key, img, "failed", err.Error())
		slog.Warn("image not measured", "namespace", ns, "image", name, "err", err)
	case len(reasons) > 0:
		i.set(key, img, "mismatch", reasons[0].GetMessage())
		slog.Warn("image on disk is not what it says", "namespace", ns, "image", name, "layer", reasons[0].GetLayer(), "path", reasons[0].GetPath(), "what", reasons[0].GetMessage())
	default:
		i.set(key, img, "bound", snapshotter)
	}
}

func (i *images) set(k imageKey, img *inventory.Image, state, detail string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.states[k] = &nodev1.ImageState{Namespace: k.ns, Name: k.name, Manifest: img.Manifest.String(), State: state, Detail: detail}
}

func (i *images) list() []*nodev1.ImageState {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []*nodev1.ImageState
	for _, s := range i.states {
		out = append(out, s)
	}
	return out
}

// measure measures an unpacked image layer by layer and tells each step. What
// is not as the image says is returned; it is not an error.
func (i *images) measure(ctx context.Context, d *inventory.Daemon, ns string, img *inventory.Image, snapshotter string, force bool, tell func(*nodev1.MeasureUpdate) error) ([]*nodev1.Reason, error) {
	x := i.a.examiner
	for _, l := range img.Layers {
		if err := tell(&nodev1.MeasureUpdate{Layer: l.DiffID.String(), State: "referencing", BytesTotal: uint64(l.Size)}); err != nil {
			return nil, err
		}
		if _, err := x.References.Digest(ctx, ns, l, d); err != nil {
			return nil, err
		}
	}
	if snapshotter == "native" {
		// A native snapshot is a copy for one container; there is nothing of the
		// image to bind before that copy is made.
		return nil, nil
	}
	ids := img.ChainIDs()
	key := "sealift-measure-" + randomName()
	mounts, err := d.View(ctx, ns, snapshotter, key, ids[len(ids)-1])
	if err != nil {
		return nil, err
	}
	defer func() {
		// Without a label that keeps it, containerd collects what is left behind.
		if err := d.RemoveSnapshot(context.WithoutCancel(ctx), ns, snapshotter, key); err != nil {
			slog.Warn("view not removed", "namespace", ns, "snapshot", key, "err", err)
		}
	}()
	pm := make([]*nodev1.Mount, len(mounts))
	for n, m := range mounts {
		pm[n] = &nodev1.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	lowers, err := chain.Layers(pm)
	if err != nil {
		return nil, err
	}
	return x.MeasureLayers(ctx, d, ns, img, lowers, force, tell)
}

func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// find resolves an image for the CLI: the daemon and the snapshotter that have
// it unpacked.
func (i *images) find(ctx context.Context, ns, name string) (*inventory.Daemon, *inventory.Image, string, error) {
	err := fmt.Errorf("image %s in namespace %s: %w", name, ns, inventory.ErrNotFound)
	for _, d := range i.a.daemons {
		img, ierr := d.Image(ctx, ns, name, "", "")
		if ierr != nil {
			err = ierr
			continue
		}
		snapshotters, serr := d.Snapshotters(ctx)
		if serr != nil {
			return nil, nil, "", serr
		}
		for _, s := range snapshotters {
			if len(img.Layers) == 0 {
				return d, img, s, nil
			}
			if ok, _ := d.HasSnapshot(ctx, ns, s, img.ChainIDs()[len(img.Layers)-1]); ok {
				return d, img, s, nil
			}
		}
		err = fmt.Errorf("image %s in namespace %s is not unpacked\nhint: ctr -n %s images unpack %s", name, ns, ns, name)
	}
	return nil, nil, "", err
}
