package node

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An agent that works is waited for, and one that does not is given up: one that
// waits for something, one that was stopped in the middle of its work, one that
// is no process any more.
func TestAnswering(t *testing.T) {
	const script = "while :; do :; done"
	for _, c := range []struct {
		name   string
		script string
		then   func(*os.Process) error
		lives  bool
	}{
		{"at work", script, nil, true},
		{"waits", "exec sleep 1000", nil, false},
		{"stopped", script, func(p *os.Process) error { return p.Signal(unix.SIGSTOP) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			agent := exec.Command("/bin/sh", "-c", c.script)
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := agent.Process.Kill(); err != nil {
					t.Error(err)
				}
				_ = agent.Wait() // killed is how it ends
			}()
			if c.then != nil {
				if err := c.then(agent.Process); err != nil {
					t.Fatal(err)
				}
			}
			if lives := answersLate(t, agent.Process.Pid); lives != c.lives {
				t.Errorf("waited for: %t, want %t", lives, c.lives)
			}
		})
	}
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		// No process has this number: it is more than the kernel's largest.
		if answersLate(t, 1<<23) {
			t.Error("waited for")
		}
	})
}

// answersLate reports whether an answer that takes three times as long as an idle
// agent is given was waited for.
func answersLate(t *testing.T, pid int) bool {
	t.Helper()
	err := answering(t.Context(), pid, func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(3 * DialTimeout):
			return nil
		}
	})
	if err != nil && !errors.Is(err, errSilent) {
		t.Fatal(err)
	}
	return err == nil
}

// The caller's own end of waiting is told as that.
func TestAnsweringIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := answering(ctx, os.Getpid(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if !errors.Is(err, context.Canceled) || errors.Is(err, errSilent) {
		t.Errorf("%v", err)
	}
}
