package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/verify"
)

// remote is a peer as a watcher meets it.
type remote struct {
	mu      sync.Mutex
	verdict *verify.Verdict
	down    error
	silent  bool
	calls   int
	proofs  int
	open    *session
}

func (r *remote) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *remote) counts() (calls, proofs int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls, r.proofs
}

// hangUp is what the end of the agent's process does.
func (r *remote) hangUp(reason error) {
	r.set(func() {
		if r.open != nil {
			r.open.end(reason)
		}
	})
}

func (r *remote) Open(ctx context.Context) (Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	switch {
	case r.silent:
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		return nil, ctx.Err()
	case r.down != nil:
		return nil, r.down
	case r.verdict.Result != verify.Trusted:
		return nil, &channel.Error{Peer: "b", Phase: channel.PhaseAppraise, Reason: "not trusted", Verdict: r.verdict}
	}
	r.open = &session{remote: r, verdict: r.verdict, done: make(chan struct{})}
	return r.open, nil
}

type session struct {
	remote  *remote
	mu      sync.Mutex
	verdict *verify.Verdict
	err     error
	done    chan struct{}
}

func (s *session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		close(s.done)
	}
}

func (s *session) Attest(ctx context.Context) (*verify.Verdict, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	s.remote.mu.Lock()
	v, silent := s.remote.verdict, s.remote.silent
	s.remote.proofs++
	s.remote.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if v.Result != verify.Trusted {
		s.end(&channel.Error{Peer: "b", Phase: channel.PhaseAppraise, Reason: "not trusted", Verdict: v})
		return nil, s.Err()
	}
	s.mu.Lock()
	s.verdict = v
	s.mu.Unlock()
	return v, nil
}

func (s *session) Verdict() *verify.Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verdict
}

func (s *session) AKName() []byte { return []byte("ak-b") }

func (s *session) Done() <-chan struct{} { return s.done }

func (s *session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *session) Close() error {
	s.end(errors.New("closed"))
	return nil
}

// watched runs a watcher in a bubble of time; said gives what it told since the
// last call, with how long ago.
func watched(t *testing.T, r *remote, interval time.Duration, body func(w *Watcher, said func() []string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		w, err := New(Config{Peer: "b", Open: r.Open, Interval: interval, Changed: func(_ Status, changes []Change) {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range changes {
				told = append(told, c.Text)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			w.Run(ctx)
			close(done)
		}()
		synctest.Wait()
		body(w, func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			out := told
			told = nil
			return out
		})
		cancel()
		<-done
	})
}

func only(t *testing.T, got []string, want string) {
	t.Helper()
	if len(got) != 1 || !strings.Contains(got[0], want) {
		t.Errorf("told %q, wanted %q alone", got, want)
	}
}

// What happens on a peer is told by name within four seconds at an interval
// of two, whenever in the interval it happens, and nothing else is told.
func TestToldInTime(t *testing.T) {
	gone := errors.New("dial tcp 192.0.2.1:7000: connection refused")
	for name, x := range map[string]struct {
		happen func(r *remote)
		want   string
	}{
		"violation":      {func(r *remote) { r.set(func() { r.verdict = verdict("e1", violation1) }) }, "policy violation of web in default"},
		"foreign extend": {func(r *remote) { r.set(func() { r.verdict = verdict("e1", foreign) }) }, "foreign extend"},
		"stopped agent": {func(r *remote) {
			r.set(func() { r.down = gone })
			r.hangUp(errors.New("the connection was cut off"))
		}, "agent stopped"},
		"frozen agent": {func(r *remote) { r.set(func() { r.silent = true }) }, "agent stopped"},
	} {
		for _, when := range []time.Duration{0, 10 * time.Millisecond, 990 * time.Millisecond, 1999 * time.Millisecond} {
			t.Run(fmt.Sprint(name, " ", when), func(t *testing.T) {
				r := &remote{verdict: verdict("e1")}
				watched(t, r, 2*time.Second, func(w *Watcher, said func() []string) {
					only(t, said(), "trusted")
					time.Sleep(20*time.Second + when)
					if got := said(); len(got) != 0 {
						t.Errorf("nothing happened, and told %q", got)
					}
					if calls, proofs := r.counts(); proofs < 9 || calls != 1 {
						t.Errorf("%d proofs, %d calls", proofs, calls)
					}
					x.happen(r)
					time.Sleep(4 * time.Second)
					only(t, said(), x.want)
					time.Sleep(time.Minute)
					if got := said(); len(got) != 0 {
						t.Errorf("told again: %q", got)
					}
					if s := w.Status(); s.State == Trusted || len(s.Reasons) == 0 {
						t.Errorf("%+v", s)
					}
				})
			})
		}
	}
}

func TestComesBack(t *testing.T) {
	r := &remote{verdict: verdict("e1"), down: errors.New("connection refused")}
	watched(t, r, 2*time.Second, func(w *Watcher, said func() []string) {
		only(t, said(), "agent stopped")
		r.set(func() { r.down = nil })
		time.Sleep(2 * time.Second)
		only(t, said(), "trusted again")
	})
}

// An agent that is restarted between two proofs is trusted all the time.
func TestCutConnectionIsOpenedAtOnce(t *testing.T) {
	r := &remote{verdict: verdict("e1")}
	watched(t, r, 30*time.Second, func(w *Watcher, said func() []string) {
		only(t, said(), "trusted")
		time.Sleep(time.Second)
		r.hangUp(errors.New("the connection was cut off"))
		got := said()
		if calls, _ := r.counts(); len(got) != 0 || calls != 2 {
			t.Errorf("%d calls, told %q", calls, got)
		}
	})
}

func TestCheck(t *testing.T) {
	r := &remote{verdict: verdict("e1")}
	watched(t, r, time.Hour, func(w *Watcher, said func() []string) {
		only(t, said(), "trusted")
		r.set(func() { r.verdict = verdict("e1", violation1) })
		s, err := w.Check(context.Background())
		if err != nil || s.State != NotTrusted {
			t.Errorf("%+v, %v", s, err)
		}
		only(t, said(), "policy violation of web in default")
		r.set(func() { r.silent = true })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := w.Check(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// A peer that cannot be reached is not called more often than the interval.
func TestNoStorm(t *testing.T) {
	r := &remote{verdict: verdict("e1"), down: errors.New("connection refused")}
	watched(t, r, 2*time.Second, func(w *Watcher, said func() []string) {
		time.Sleep(time.Minute)
		if calls, _ := r.counts(); calls > 31 {
			t.Errorf("%d calls in a minute", calls)
		}
	})
}

func TestConfig(t *testing.T) {
	open := func(context.Context) (Session, error) { return nil, errors.New("no") }
	for _, c := range []Config{{}, {Open: open, Interval: -1}, {Open: open, Patience: -1}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v let through", c)
		}
	}
}
