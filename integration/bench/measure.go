package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
)

// rounds is how often each side measures the large image.
const rounds = 9

const (
	layers = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
	// sha256sum reads the same files, each layer's, on all cores.
	sha256sum = "find " + layers + "/*/fs -type f -print0 | xargs -0 -n 64 -P $(nproc) sha256sum >/dev/null"
	measure   = "sealift measure --force " + image.LargeName + " >/dev/null"
	// evict drops the files' pages, and no other's, from the page cache.
	evict = `python3 - <<'END'
import os
for top, _, files in os.walk("` + layers + `"):
    for f in files:
        p = os.path.join(top, f)
        if os.path.isfile(p) and not os.path.islink(p):
            d = os.open(p, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
            os.fsync(d); os.posix_fadvise(d, 0, 0, os.POSIX_FADV_DONTNEED); os.close(d)
END`
)

func measureWarm(ctx context.Context) ([]Row, error) { return measured(ctx, "measure-warm", "true") }
func measureCold(ctx context.Context) ([]Row, error) { return measured(ctx, "measure-cold", evict) }

// measured is measuring all layers of the large image again against sha256sum
// of the same files. It needs a reference: that is made before.
func measured(ctx context.Context, name, prepare string) (rows []Row, err error) {
	n, err := newNode(ctx, "[measure]\nbackground = false\n", map[string]func(string) image.Spec{"large": image.Large})
	if err != nil {
		return nil, err
	}
	defer func() { err = closing(n, err) }()
	for _, warmUp := range []string{measure, sha256sum} {
		if _, err := n.Shell(ctx, warmUp); err != nil {
			return nil, err
		}
	}
	var times [3][]float64
	for range rounds {
		for i, what := range []string{sha256sum, measure, sha256sum} {
			took, err := timed(ctx, n, prepare, what)
			if err != nil {
				return nil, err
			}
			times[i] = append(times[i], took)
		}
	}
	return []Row{
		ratio(name, "s", "sha256sum, all cores", times[1], times[0]),
		ratio(name+" A/A", "s", "sha256sum, all cores", times[2], times[0]),
	}, nil
}

func timed(ctx context.Context, n *node.Node, prepare, what string) (float64, error) {
	if _, err := n.Shell(ctx, prepare); err != nil {
		return 0, fmt.Errorf("before: %w", err)
	}
	began := time.Now()
	if _, err := n.Shell(ctx, what); err != nil {
		return 0, err
	}
	return time.Since(began).Seconds(), nil
}
