package eventlog_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

var (
	chaosSeed  = flag.Uint64("chaos-seed", 1, "seed of TestChaos")
	chaosSteps = flag.Int("chaos-steps", 15, "accidents in TestChaos")
)

// Accidents in random order under load: foreign extends, TPM restarts, lost
// replies, late commands, reopened logs. After each of them the log comes to
// rest; then it equals the PCR, and every record that was answered is in it.
func TestChaos(t *testing.T) {
	if os.Getenv("SEALIFT_TEST") == "long" {
		*chaosSteps = max(*chaosSteps, 1000)
	}
	t.Logf("-chaos-seed %d -chaos-steps %d", *chaosSeed, *chaosSteps)
	rng := rand.New(rand.NewPCG(*chaosSeed, 0))
	x := swtpmtest.Start(t)
	p := swtpmtest.NewProxy(t, x)
	c := config(t, t.TempDir(), p.Device())
	quick, err := tpm.OpenWith(t.Context(), p.Device(), tpm.Options{Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := quick.Close(); err != nil {
			t.Error(err)
		}
	})
	direct := c
	if direct.Device, err = tpm.Open(t.Context(), x.Device()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := direct.Device.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Device, c.Timeout, c.Watch = quick, 300*time.Millisecond, 50*time.Millisecond
	c.SegmentBytes = 64 << 10
	l, err := eventlog.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { closeLog(t, l) }()

	type answered struct {
		epoch eventlog.Hash
		id    string
	}
	var mu sync.Mutex
	var all []answered
	load := func(step int) *sync.WaitGroup {
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 6 {
					id := fmt.Sprintf("s%d-%d-%d", step, g, i)
					before := l.State().Epoch
					_, err := l.Append(t.Context(), eventlog.Event{Type: "note", Namespace: "default", Container: id})
					// Which epoch a record went to is sure only if none began meanwhile.
					if after := l.State().Epoch; err == nil && before == after {
						mu.Lock()
						all = append(all, answered{after, id})
						mu.Unlock()
					}
				}
			})
		}
		return &wg
	}
	for step := range *chaosSteps {
		accident := rng.IntN(6)
		wg := load(step)
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
		switch accident {
		case 0:
			foreign(t, direct)
		case 1:
			x.Restart()
		case 2, 3:
			release := make(chan struct{})
			var once sync.Once
			hold := func(code uint32) {
				if code == swtpmtest.PCRExtend {
					once.Do(func() { <-release })
				}
			}
			if accident == 2 {
				p.Set(nil, hold) // done, and nobody is told
			} else {
				p.Set(hold, nil) // done much later than anybody waits
			}
			time.Sleep(350 * time.Millisecond)
			close(release)
			p.Set(nil, nil)
		case 4:
			wg.Wait()
			closeLog(t, l)
			if rng.IntN(2) == 0 {
				x.Restart()
			}
			// A TPM that 300 ms are too short for is not there.
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
				if l, err = eventlog.Open(t.Context(), c); err == nil {
					break
				}
				var late *tpm.TimeoutError
				if !errors.As(err, &late) || time.Now().After(deadline) {
					t.Fatalf("step %d: %v", step, err)
				}
			}
		case 5:
			p.Delay(swtpmtest.PCRExtend, time.Duration(rng.IntN(20))*time.Millisecond)
		}
		wg.Wait()
		p.Set(nil, nil)
		// At rest: a record gets through, and the log says what the PCR says.
		deadline := time.Now().Add(2 * time.Minute)
		for {
			_, err := l.Append(t.Context(), eventlog.Event{Type: "rest"})
			if err == nil {
				if r := verify(t, c.Dir, readPCR(t, direct)); r.Match == eventlog.MatchEnd && r.Unended == 0 {
					break
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("step %d, accident %d: no rest: %v, state %+v, replay %+v", step, accident, err, l.State(), verify(t, c.Dir, readPCR(t, direct)))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	epochs, err := eventlog.Epochs(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	text := map[eventlog.Hash][]byte{}
	for _, e := range epochs {
		text[e.ID] = storedEpoch(t, c.Dir, e.ID.String())
		if _, err := eventlog.Verify(eventlog.LinesOf(bytes.NewReader(text[e.ID])), nil); err != nil {
			t.Errorf("epoch %d: %v", e.Number, err)
		}
	}
	for _, a := range all {
		if !bytes.Contains(text[a.epoch], fmt.Appendf(nil, `"container":"%s"`, a.id)) {
			t.Errorf("%s was answered and is not in epoch %s", a.id, a.epoch)
		}
	}
	t.Logf("%d epochs, %d answered", len(epochs), len(all))
}
