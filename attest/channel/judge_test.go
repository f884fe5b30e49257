package channel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
)

func checkpoint(t *testing.T, reset uint32, clock uint64) *verify.Checkpoint {
	t.Helper()
	var blank verify.Checkpoint
	blank.Version, blank.Reset, blank.Clock, blank.Host = 1, reset, clock, "b"
	blank.Mark.Seq = 41
	blank.Mark.Epoch[0] = 0xe0
	text, err := blank.Encode()
	if err != nil {
		t.Fatal(err)
	}
	// Its facts are the verifier's own; an empty set does here.
	text = bytes.Replace(text, []byte(`"facts":null`), []byte(`"facts":{}`), 1)
	c, err := verify.DecodeCheckpoint(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

func TestCheckpointsGoForward(t *testing.T) {
	dir := t.TempDir()
	ak := []byte{0, 0x0b, 1}
	c, err := OpenCheckpoints(filepath.Join(dir, "made"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := c.Load(ak); p != nil || err != nil {
		t.Fatalf("%v, %v", p, err)
	}
	var wg sync.WaitGroup
	for clock := range uint64(20) {
		next := checkpoint(t, 3, clock)
		wg.Go(func() {
			if err := c.Store(ak, next); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, x := range []struct {
		reset uint32
		clock uint64
		want  string
	}{{3, 5, "3/19"}, {2, 100, "3/19"}, {4, 0, "4/0"}} {
		if err := c.Store(ak, checkpoint(t, x.reset, x.clock)); err != nil {
			t.Fatal(err)
		}
		// And so it stands in the file.
		again, err := OpenCheckpoints(filepath.Join(dir, "made"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := again.Load(ak)
		if err != nil || fmt.Sprintf("%d/%d", p.Reset, p.Clock) != x.want {
			t.Errorf("after %d/%d: %+v, %v", x.reset, x.clock, p, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "made", ".new*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if err := errors.Join(c.Forget(ak), c.Forget(ak)); err != nil {
		t.Error(err)
	}
	if p, err := c.Load(ak); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
}

func TestJudge(t *testing.T) {
	c, err := OpenCheckpoints(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ak := []byte{0, 0x0b, 1}
	var broken error
	j := &Judge{Checkpoints: c, Grounds: func() (Grounds, error) { return Grounds{Trust: trust.Strictest()}, broken }}
	if got := j.Begin(ak).From(); got != (Place{}) {
		t.Errorf("without a checkpoint: from %v", got)
	}
	if err := c.Store(ak, checkpoint(t, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if got := j.Begin(ak).From(); got != (Place{Epoch: [32]byte{0xe0}, Seq: 42}) {
		t.Errorf("with a checkpoint: from %v", got)
	}
	if got := (&Judge{Grounds: j.Grounds}).Begin(ak).From(); got != (Place{}) {
		t.Errorf("without a place to keep one: from %v", got)
	}
	v, err := j.Begin(ak).Appraise(t.Context(), []byte("nonsense"), verify.Expect{})
	if err != nil || v.Result != verify.Unusable {
		t.Errorf("%+v, %v", v, err)
	}
	broken = errors.New("trust.yaml:3: unknown key")
	if _, err := j.Begin(ak).Appraise(t.Context(), []byte("nonsense"), verify.Expect{}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	broken = nil
	// A checkpoint that somebody damaged is not taken for none.
	if err := os.WriteFile(c.path(ak), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := OpenCheckpoints(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	j.Checkpoints = again
	if _, err := j.Begin(ak).Appraise(t.Context(), []byte("nonsense"), verify.Expect{}); err == nil || !strings.Contains(err.Error(), "hint: remove the file") {
		t.Errorf("%v", err)
	}
}
