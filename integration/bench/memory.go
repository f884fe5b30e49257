package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
)

const (
	// shims is how many shims of each kind are looked at.
	shims = 12
	// containers is how many an agent is to hold within agentLimit MiB.
	containers = 100
	agentLimit = 60
)

// settle lets garbage collectors and start-up work end.
const settle = "sleep 3"

// shimRSS is a shim's resident memory with one idle container.
func shimRSS(ctx context.Context) (rows []Row, err error) {
	n, err := newNode(ctx, "", map[string]func(string) image.Spec{"tiny": image.Tiny})
	if err != nil {
		return nil, err
	}
	defer func() { err = closing(n, err) }()
	kinds := []struct{ prefix, runtime string }{{"stock", node.Stock}, {"ours", node.Sealift}, {"again", node.Stock}}
	for i := range shims {
		for _, k := range kinds {
			if err := idle(ctx, n, fmt.Sprintf("%s-%d", k.prefix, i), k.runtime); err != nil {
				return nil, err
			}
		}
	}
	if _, err := n.Shell(ctx, settle); err != nil {
		return nil, err
	}
	var rss [3][]float64
	for i, k := range kinds {
		if rss[i], err = resident(ctx, n, "^/[^ ]*containerd-shim.*-id "+k.prefix+"-"); err != nil {
			return nil, err
		}
	}
	return []Row{
		ratio("shim-rss", "MiB", "stock shim", rss[1], rss[0]),
		ratio("shim-rss A/A", "MiB", "stock shim", rss[2], rss[0]),
	}, nil
}

// agentRSS is the agent's resident memory with a hundred containers, against
// what it is allowed.
func agentRSS(ctx context.Context) (rows []Row, err error) {
	n, err := newNode(ctx, "", map[string]func(string) image.Spec{"tiny": image.Tiny})
	if err != nil {
		return nil, err
	}
	defer func() { err = closing(n, err) }()
	for i := range containers {
		if err := idle(ctx, n, fmt.Sprintf("idle-%d", i), node.Sealift); err != nil {
			return nil, err
		}
	}
	if _, err := n.Shell(ctx, settle); err != nil {
		return nil, err
	}
	rss, err := resident(ctx, n, "^/usr/local/bin/sealiftd")
	if err != nil {
		return nil, err
	}
	return []Row{ratio("agent-rss", "MiB", fmt.Sprintf("%d MiB for %d containers", agentLimit, containers), rss, []float64{agentLimit})}, nil
}

func idle(ctx context.Context, n *node.Node, id, runtime string) error {
	_, err := n.Run(ctx, "driver", "create", "-id", id, "-image", image.TinyName, "-runtime", runtime, "--", "sleep", "3600")
	return err
}

// resident is the resident memory of every process whose command line matches.
func resident(ctx context.Context, n *node.Node, pattern string) ([]float64, error) {
	out, err := n.Shell(ctx, "for p in $(pgrep -f '"+pattern+"'); do awk '/^VmRSS/ {print $2}' /proc/$p/status; done")
	if err != nil {
		return nil, err
	}
	var all []float64
	for _, f := range strings.Fields(out) {
		kib, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, kib/1024)
	}
	return all, nil
}
