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
			var a *fakeAgent
			if mode != "absent" {
				a, path = startFakeAgent(t, mode)
			}
			// Within two seconds; the machine may be busy otherwise for a moment, so
			// that of three the fastest counts.
			fastest := time.Hour
			for i := 0; i < 3 && fastest > 2*time.Second; i++ {
				if a != nil {
					a.set(mode)
				}
				began := time.Now()
				_, err := (&nodeAgent{socket: path}).Launch(context.Background(), &nodev1.LaunchRequest{Namespace: "n", Id: "c"})
				fastest = min(fastest, time.Since(began))
				var away *node.UnavailableError
				if !errors.As(err, &away) {
					t.Errorf("launch: %v, want an agent that is away", err)
				}
			}
			if fastest > 2*time.Second {
				t.Errorf("launch was given up after %v", fastest)
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
	// One attempt is made and the pause is cut short; the machine may be busy
	// otherwise for a moment.
	fastest := time.Hour
	for i := 0; i < 3 && fastest > time.Second; i++ {
		r := newReporter(&nodeAgent{socket: filepath.Join(t.TempDir(), "none.sock")})
		r.send(&nodev1.ReportRequest{Id: "c"})
		began := time.Now()
		if err := r.flush(context.Background()); err != nil {
			t.Error(err)
		}
		fastest = min(fastest, time.Since(began))
	}
	if fastest > time.Second {
		t.Errorf("flush waited %v for an agent that is not there", fastest)
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
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("did not happen within a minute")
}
