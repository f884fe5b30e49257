package shim

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
)

func TestAgentAwayIsNoticedInTime(t *testing.T) {
	for _, mode := range []string{"absent", "hang", "stall"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "none.sock")
			if mode != "absent" {
				_, path = startFakeAgent(t, mode)
			}
			began := time.Now()
			_, err := (&nodeAgent{socket: path}).Launch(context.Background(), &nodev1.LaunchRequest{Namespace: "n", Id: "c"})
			var away *node.UnavailableError
			if !errors.As(err, &away) {
				t.Errorf("launch: %v, want an agent that is away", err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("launch was given up after %v", took)
			}
		})
	}
}

func TestAgentMayTakeItsTime(t *testing.T) {
	t.Parallel()
	_, path := startFakeAgent(t, "slow")
	r, err := (&nodeAgent{socket: path}).Launch(context.Background(), &nodev1.LaunchRequest{Namespace: "n", Id: "c"})
	if err != nil || r.GetCommitted() == nil {
		t.Errorf("launch: %v, %v", r, err)
	}
}

func TestAgentCallIsCancelled(t *testing.T) {
	t.Parallel()
	_, path := startFakeAgent(t, "slow")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := (&nodeAgent{socket: path}).Launch(ctx, &nodev1.LaunchRequest{}); err == nil {
		t.Error("launch outlived its context")
	}
}

func TestReporterRetriesInOrder(t *testing.T) {
	t.Parallel()
	a, path := startFakeAgent(t, "refuse-reports")
	r := newReporter(&nodeAgent{socket: path})
	for i := range 3 {
		r.send(&nodev1.ReportRequest{Id: "c", Pid: uint32(i)})
	}
	eventually(t, func() bool { return len(a.kinds()) >= 2 })
	a.set("commit")
	eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return !r.running
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	var taken []uint32
	for _, q := range a.reports {
		if len(taken) == 0 || taken[len(taken)-1] != q.GetPid() {
			taken = append(taken, q.GetPid())
		}
	}
	if len(taken) != 3 || taken[0] != 0 || taken[1] != 1 || taken[2] != 2 {
		t.Errorf("order of reports %v", taken)
	}
}

func TestReporterFlushIsBounded(t *testing.T) {
	t.Parallel()
	r := newReporter(&nodeAgent{socket: filepath.Join(t.TempDir(), "none.sock")})
	r.send(&nodev1.ReportRequest{Id: "c"})
	began := time.Now()
	if err := r.flush(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > flushLimit+time.Second {
		t.Errorf("flush took %v", took)
	}
	// One attempt was made and the pause was cut short.
	if took := time.Since(began); took > time.Second {
		t.Errorf("flush waited %v for an agent that is not there", took)
	}
}

func TestReporterBoundsItself(t *testing.T) {
	t.Parallel()
	r := newReporter(&nodeAgent{socket: filepath.Join(t.TempDir(), "none.sock")})
	for range maxPending + 10 {
		r.send(&nodev1.ReportRequest{Id: "c"})
	}
	r.mu.Lock()
	n := len(r.pending)
	r.mu.Unlock()
	if n > maxPending {
		t.Errorf("%d reports wait", n)
	}
	if err := r.flush(context.Background()); err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("did not happen within ten seconds")
}
