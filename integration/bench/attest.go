package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

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

// quoteSetup makes tpm2_quote a key of the same kind, and the commands it is
// compared with.
const quoteSetup = `cd /srv; export TPM2TOOLS_TCTI=` + node.TCTI + `
tpm2_createprimary -Q -C e -G ecc -c primary.ctx; tpm2_create -Q -C primary.ctx -G ecc256:ecdsa-sha256:null -u ak.pub -r ak.priv -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign'
tpm2_flushcontext -t; tpm2_load -Q -C primary.ctx -u ak.pub -r ak.priv -c ak.ctx; tpm2_flushcontext -t`

// quoteRows are the times of a quote: in the agent, and as commands.
func quoteRows(ctx context.Context) (rows []Row, err error) {
	inside, err := goBenchmarks(ctx, "./attest/key", "^BenchmarkQuote$", "300ms", 5)
	if err != nil {
		return nil, err
	}
	n, err := newNode(ctx, "", nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = closing(n, err) }()
	if out, err := n.Shell(ctx, quoteSetup); err != nil {
		return nil, fmt.Errorf("a key for tpm2_quote: %s: %w", out, err)
	}
	var ours, peer []float64
	for range 25 {
		for command, to := range map[string]*[]float64{
			"sealift attest --nonce 00 -o /srv/e.json": &ours,
			"TPM2TOOLS_TCTI=" + node.TCTI + " tpm2_quote -Q -c /srv/ak.ctx -l sha256:0,1,2,3,4,5,6,7,8,9,10,13,14 -q 00 -m /srv/m -s /srv/s": &peer,
		} {
			// tpm2-tools leave what they load behind, and the TPM has three places.
			out, err := n.Shell(ctx, "a=$(date +%s%N); "+command+"; echo $(( $(date +%s%N) - a )); TPM2TOOLS_TCTI="+node.TCTI+" tpm2_flushcontext -t")
			if err != nil {
				return nil, err
			}
			ns, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
			if err != nil {
				return nil, err
			}
			*to = append(*to, ns/1e6)
		}
	}
	r, err := compared("quote, in the agent", "ms", "tpm2_quote, a command", inside.ms("Quote"), peer)
	return []Row{ratio("attest, a command", "ms", "tpm2_quote, a command", ours, peer), r}, err
}
