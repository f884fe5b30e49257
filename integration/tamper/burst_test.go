package tamper_test

import (
	"fmt"
	"testing"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/integration/tamper"
	"github.com/sealift/sealift/measure/eventlog"
)

// TestBurst releases a hundred launches together while each extend takes ten
// milliseconds more: they are to share at most five extends, and each must be in
// the log under the number it was told.
func TestBurst(t *testing.T) {
	const launches, extends = 101, 5
	ctx := t.Context()
	s := tamper.TestStage(t, node.Options{Name: "burst", Line: node.Line24, Binaries: made.Faults})
	img, err := s.Import(ctx, "burst", overlayfs, s.Image)
	skip.On(t, err)
	var reqs []*nodev1.LaunchRequest
	for i := range launches {
		c, err := s.Create(ctx, "burst", fmt.Sprintf("c%d", i), overlayfs, img)
		if err != nil {
			t.Fatal(err)
		}
		req, err := s.Request(ctx, "burst", c)
		if err != nil {
			t.Fatal(err)
		}
		reqs = append(reqs, req)
	}
	// The point lies between the TPM's answer and the next batch: the committer
	// is as busy as a slow TPM would make it.
	if _, err := s.Node.Run(ctx, "sh", "-c", "mkdir -p /run/sealift-fault && printf 'sleep 10ms' > /run/sealift-fault/log.after-extend"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Burst(reqs[:1]); err != nil { // binds the layers, and shows the TPM to be slow
		t.Fatal(err)
	}
	// A machine that is busy otherwise may take its time over releasing a hundred:
	// of five bursts the best counts.
	fewest := launches
	for i := 0; i < 5 && fewest > extends; i++ {
		n := burst(t, s, reqs[1:])
		t.Logf("%d launches in %d extends", launches-1, n)
		fewest = min(fewest, n)
	}
	if fewest > extends {
		t.Errorf("%d launches took %d extends, at most %d", launches-1, fewest, extends)
	}
}

// burst releases launches together, looks for each in the log, and returns how
// many extends they took.
func burst(t *testing.T, s *tamper.Stage, reqs []*nodev1.LaunchRequest) (extends int) {
	t.Helper()
	before, err := batches(s.Inside("/var/lib/sealift/log"))
	if err != nil {
		t.Fatal(err)
	}
	seqs, err := s.Burst(reqs)
	if err != nil {
		t.Fatal(err)
	}
	after, err := batches(s.Inside("/var/lib/sealift/log"))
	if err != nil {
		t.Fatal(err)
	}
	used := map[uint64]bool{}
	first, last := seqs[0], seqs[0]
	for _, q := range seqs {
		used[q] = true
		first, last = min(first, q), max(last, q)
	}
	if len(used) != len(reqs) {
		t.Errorf("%d launches have %d numbers", len(reqs), len(used))
	}
	for _, b := range after[len(before):] {
		if b.Last() >= first && b.First <= last {
			extends++
		}
	}
	return extends
}

func batches(dir string) ([]*eventlog.Batch, error) {
	lines, err := eventlog.Lines(dir, "")
	if err != nil {
		return nil, err
	}
	var out []*eventlog.Batch
	for line, err := range lines {
		if err != nil {
			return nil, err
		}
		l, err := eventlog.DecodeLine(line)
		if err != nil {
			return nil, err
		}
		if l.Batch != nil {
			out = append(out, l.Batch)
		}
	}
	return out, nil
}
