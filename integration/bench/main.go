// Command bench measures what Sealift costs, always as a ratio to something
// that does the same without it, in one interleaved run on one node, with an
// A/A row (the peer against itself) that says what the noise of this run is.
//
//	bench [NAME...]     all targets, or those named
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/made"
)

// Row is one line of a target's table, and of its file.
type Row struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Ours     float64 `json:"ours"`
	Peer     float64 `json:"peer"`
	PeerName string  `json:"peer_name"`
	Ratio    float64 `json:"ratio"`
	// Lo and Hi bound the ratio: a 95 % bootstrap interval.
	Lo float64 `json:"lo"`
	Hi float64 `json:"hi"`
	N  int     `json:"n"`
}

type target struct {
	name string
	// goal is what the ratio should not exceed.
	goal float64
	run  func(ctx context.Context) ([]Row, error)
}

var targets = []target{
	{"start-warm", 1.00, startWarm},
	{"measure-warm", 1.1, measureWarm},
	{"measure-cold", 1.1, measureCold},
	{"shim-rss", 1.1, shimRSS},
	{"agent-rss", 1.00, agentRSS},
	{"start-by-files", 0, startByFiles},
	{"start-while-quoting", 1.02, startWhileQuoting},
	{"quote", 0, quoteRows},
	{"verify", 0, verifyRows},
	{"handshake", 0, handshakeRows},
}

func main() {
	host.Reexec()
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string) error {
	for _, n := range names {
		if !slices.ContainsFunc(targets, func(t target) bool { return t.name == n }) {
			return fmt.Errorf("no target %q: %w", n, errors.ErrUnsupported)
		}
	}
	root, err := made.Root()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "build", "bench")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fmt.Printf("%-44s %6s %10s %10s %-24s %6s %15s %4s\n", "NAME", "UNIT", "OURS", "PEER", "PEER NAME", "RATIO", "95 %", "N")
	for _, t := range targets {
		if len(names) > 0 && !slices.Contains(names, t.name) {
			continue
		}
		rows, err := t.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		for i, r := range rows {
			fmt.Printf("%-44s %6s %10.3f %10.3f %-24s %6.3f %7.3f–%-7.3f %4d%s\n", r.Name, r.Unit, r.Ours, r.Peer, r.PeerName, r.Ratio, r.Lo, r.Hi, r.N, mark(t, i, r))
		}
		b, err := json.MarshalIndent(rows, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, t.name+".json"), append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mark judges a target's first row, which is the one that has the goal.
func mark(t target, i int, r Row) string {
	switch {
	case i > 0 || t.goal == 0:
		return ""
	case r.Ratio <= t.goal:
		return fmt.Sprintf("  within %.2f", t.goal)
	default:
		return fmt.Sprintf("  OVER %.2f", t.goal)
	}
}
