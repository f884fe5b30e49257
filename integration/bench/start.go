package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

// cycles is how many containers of each kind a timing takes.
const cycles = 60

// phases are the driver's times of one runtime, in milliseconds.
type phases struct{ create, start, remove, total []float64 }

// newNode makes a node with images and the driver.
func newNode(ctx context.Context, config string, specs map[string]func(string) image.Spec) (*node.Node, error) {
	n, err := node.New(ctx, node.Options{Name: "bench", Config: config})
	if err != nil {
		return nil, err
	}
	for name, spec := range specs {
		img, err := made.Image(ctx, name, spec)
		if err == nil {
			err = n.Import(ctx, img)
		}
		if err != nil {
			return nil, closing(n, err)
		}
	}
	if err := n.InstallTool(ctx, "driver"); err != nil {
		return nil, closing(n, err)
	}
	return n, nil
}

func closing(n *node.Node, err error) error {
	if cerr := n.Close(); err == nil {
		return cerr
	}
	return err
}

// cycle runs containers of each runtime in turns; one named twice is measured
// twice, as two rows.
func cycle(ctx context.Context, n *node.Node, image string, count int, runtimes ...string) ([]phases, error) {
	return cycleOn(ctx, n, "overlayfs", image, count, runtimes...)
}

func cycleOn(ctx context.Context, n *node.Node, snapshotter, image string, count int, runtimes ...string) ([]phases, error) {
	out, err := n.Run(ctx, "driver", "cycle", "-snapshotter", snapshotter, "-image", image, "-n", fmt.Sprint(count), "-runtime", strings.Join(runtimes, ","))
	if err != nil {
		return nil, err
	}
	all := make([]phases, len(runtimes))
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var t struct{ Create, Start, Delete float64 }
		if err := json.Unmarshal([]byte(line), &t); err != nil {
			return nil, fmt.Errorf("driver: %q: %w", line, err)
		}
		p := &all[i%len(runtimes)]
		p.create = append(p.create, t.Create/1e6)
		p.start = append(p.start, t.Start/1e6)
		p.remove = append(p.remove, t.Delete/1e6)
		p.total = append(p.total, (t.Create+t.Start+t.Delete)/1e6)
	}
	return all, nil
}

// startWarm is create + start + delete of an image whose layers are bound,
// against the stock shim of the same containerd.
func startWarm(ctx context.Context) (rows []Row, err error) {
	n, err := newNode(ctx, "", map[string]func(string) image.Spec{"tiny": image.Tiny})
	if err != nil {
		return nil, err
	}
	defer func() { err = closing(n, err) }()
	if _, err := cycle(ctx, n, image.TinyName, 5, node.Stock, node.Sealift); err != nil {
		return nil, err
	}
	p, err := cycle(ctx, n, image.TinyName, cycles, node.Stock, node.Sealift, node.Stock)
	if err != nil {
		return nil, err
	}
	stock, ours, again := p[0], p[1], p[2]
	return []Row{
		ratio("start-warm", "ms", "stock shim", ours.total, stock.total),
		ratio("start-warm create", "ms", "stock shim", ours.create, stock.create),
		ratio("start-warm start", "ms", "stock shim", ours.start, stock.start),
		ratio("start-warm delete", "ms", "stock shim", ours.remove, stock.remove),
		ratio("start-warm A/A", "ms", "stock shim", again.total, stock.total),
	}, nil
}

// startByFiles is what a start costs as images grow: the first use, where all is
// hashed, and the bound ones after it.
func startByFiles(ctx context.Context) ([]Row, error) {
	var rows []Row
	for _, files := range []int{10, 1000, 10_000, 60_000} {
		more, err := startWithFiles(ctx, files)
		if err != nil {
			return nil, fmt.Errorf("%d files: %w", files, err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func startWithFiles(ctx context.Context, files int) (rows []Row, err error) {
	name := fmt.Sprintf("many-%d", files)
	many := func(busybox string) image.Spec { return image.Many(busybox, files) }
	// Without measuring in the background the first start is the first use.
	n, err := newNode(ctx, "[measure]\nbackground = false\n", map[string]func(string) image.Spec{name: many})
	if err != nil {
		return nil, err
	}
	defer func() { err = closing(n, err) }()
	ref := many(image.Busybox("/")).Name
	for _, class := range []struct{ name, snapshotter string }{{"tree", "overlayfs"}, {"blob", "erofs"}} {
		// Mounting an image unpacks it for a snapshotter.
		if out, err := n.Shell(ctx, fmt.Sprintf("mkdir -p /srv/look && ctr image mount --snapshotter %[1]s %[2]s /srv/look && ctr image unmount --rm --snapshotter %[1]s /srv/look", class.snapshotter, ref)); err != nil {
			return nil, fmt.Errorf("unpacking for %s: %s: %w", class.snapshotter, out, err)
		}
		first, err := cycleOn(ctx, n, class.snapshotter, ref, 1, node.Stock, node.Sealift)
		if err != nil {
			return nil, err
		}
		bound, err := cycleOn(ctx, n, class.snapshotter, ref, 15, node.Stock, node.Sealift)
		if err != nil {
			return nil, err
		}
		rows = append(rows,
			ratio(fmt.Sprintf("start %d files, first use, %s", files, class.name), "ms", "stock shim", first[1].total, first[0].total),
			ratio(fmt.Sprintf("start %d files, bound, %s", files, class.name), "ms", "stock shim", bound[1].total, bound[0].total))
	}
	return rows, nil
}
