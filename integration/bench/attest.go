package main

import (
	"context"
	"fmt"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
)

// Blocks of starts take turns, with and without quotes beside them.
const (
	quoteBlocks = 10
	blockStarts = 10
)

// quoting has this host prove itself every second, as a peer with a checkpoint
// has it do, while the file is there.
const quoting = `while :; do
	if [ -e /run/quoting ]; then
		sealift attest --nonce new --from $(cat /run/quoting.seq) --epoch $(cat /run/quoting.epoch) -o /run/quoting.json 2>/run/quoting.err || touch /run/quoting.failed
	fi
	sleep 1
done`

// checkpoint notes where the log stands.
const checkpoint = `sealift status --json >/run/status.json
jq -r .log.seq /run/status.json >/run/quoting.seq; jq -r .log.epoch /run/status.json >/run/quoting.epoch`

// startWhileQuoting is a start's time with a quote every second beside it,
// against none.
func startWhileQuoting(ctx context.Context) (rows []Row, err error) {
	n, err := newNode(ctx, "", map[string]func(string) image.Spec{"tiny": image.Tiny})
	if err != nil {
		return nil, err
	}
	defer func() { err = closing(n, err) }()
	if _, err := cycle(ctx, n, image.TinyName, 5, node.Sealift); err != nil {
		return nil, err
	}
	if _, err := n.Daemon("quoting", host.Cmd{Args: []string{"/bin/sh", "-c", quoting}}); err != nil {
		return nil, err
	}
	var with, without, again phases
	for range quoteBlocks {
		for _, b := range []struct {
			p      *phases
			before string
		}{{&without, "rm -f /run/quoting"}, {&with, checkpoint + "; touch /run/quoting; sleep 1"}, {&again, "rm -f /run/quoting; sleep 1"}} {
			if _, err := n.Shell(ctx, b.before); err != nil {
				return nil, err
			}
			p, err := cycle(ctx, n, image.TinyName, blockStarts, node.Sealift)
			if err != nil {
				return nil, err
			}
			b.p.create = append(b.p.create, p[0].create...)
			b.p.total = append(b.p.total, p[0].total...)
		}
	}
	if out, err := n.Shell(ctx, "test ! -e /run/quoting.failed && test -s /run/quoting.json"); err != nil {
		return nil, fmt.Errorf("the quotes beside the starts were not made: %s: %w", out, err)
	}
	return []Row{
		ratio("start-while-quoting", "ms", "without quotes", with.total, without.total),
		ratio("start-while-quoting create", "ms", "without quotes", with.create, without.create),
		ratio("start-while-quoting A/A", "ms", "without quotes", again.total, without.total),
	}, nil
}
