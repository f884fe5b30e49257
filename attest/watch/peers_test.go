package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/verify"
)

func peers(t *testing.T, ctx context.Context, a *agent, file string) *Peers {
	t.Helper()
	p, err := OpenPeers(ctx, PeersConfig{Endpoint: a.endpoint, File: file, Interval: 100 * time.Millisecond, Patience: time.Minute,
		Failed: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func standing(t *testing.T, p *Peers, name string, want State) Status {
	t.Helper()
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		for _, x := range p.List() {
			if x.Name == name && x.Status.State == want {
				return x.Status
			}
		}
		if time.Now().After(until) {
			t.Fatalf("%s is not %s: %+v", name, want, p.List())
		}
	}
}

func TestPeers(t *testing.T) {
	f := &fleet{all: map[string]*agent{}}
	a, b := f.agent(t, "ak-a", time.Minute), f.agent(t, "ak-b", time.Minute)
	addr := b.serve("127.0.0.1:0")
	defer b.kill()
	file := filepath.Join(t.TempDir(), "peers.json")
	ctx, cancel := context.WithCancel(t.Context())
	p := peers(t, ctx, a, file)
	if err := errors.Join(p.Set("b", addr), p.Set("b", addr), p.Set("gone", "127.0.0.1:1")); err != nil {
		t.Fatal(err)
	}
	standing(t, p, "b", Trusted)
	standing(t, p, "gone", Unreachable)

	told := make(chan Change, 100)
	followed := make(chan error, 1)
	go func() {
		followed <- p.Follow(ctx, "b", func(x Peer, changes []Change) error {
			if x.Name != "b" || x.Address != addr {
				t.Errorf("told of %+v", x)
			}
			if changes == nil {
				told <- Change{Code: "now " + string(x.Status.State)}
			}
			for _, c := range changes {
				told <- c
			}
			return nil
		})
	}()
	next := func(code string) {
		t.Helper()
		select {
		case c := <-told:
			if c.Code != code {
				t.Errorf("told %+v, wanted %s", c, code)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("not told %s", code)
		}
	}
	next("now trusted")
	b.set(verdict("e1", violation1))
	if _, err := p.Check(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	next("violation")
	b.set(verdict("e1", rolledBack))
	if list, err := p.Check(ctx, ""); err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	next("log-rolled-back")

	// What b was caught at outlives this agent's run.
	cancel()
	p.Wait()
	if err := <-followed; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	b.set(verdict("e1"))
	ctx, cancel = context.WithCancel(t.Context())
	p = peers(t, ctx, a, file)
	if s := standing(t, p, "b", NotTrusted); s.Reasons[0].Code != TrustHeld {
		t.Errorf("%+v", s)
	}
	// Another address changes nothing in that.
	if err := p.Set("b", strings.Replace(addr, "127.0.0.1", "localhost", 1)); err != nil {
		t.Fatal(err)
	}
	standing(t, p, "b", NotTrusted)
	var not *NotAPeerError
	if err := p.Remove("c"); !errors.As(err, &not) {
		t.Errorf("%v", err)
	}
	if _, err := p.Check(ctx, "c"); !errors.As(err, &not) {
		t.Errorf("%v", err)
	}
	if err := p.Follow(ctx, "c", nil); !errors.As(err, &not) {
		t.Errorf("%v", err)
	}
	if err := errors.Join(p.Remove("b"), p.Remove("gone"), p.Set("b", addr)); err != nil {
		t.Fatal(err)
	}
	standing(t, p, "b", Trusted)
	cancel()
	p.Wait()
	// The agents of the list are where they are told to be, and nobody else.
	ctx, cancel = context.WithCancel(t.Context())
	p = peers(t, ctx, a, file)
	if list := p.List(); len(list) != 1 || list[0].Name != "b" || list[0].Address != addr {
		t.Errorf("%+v", list)
	}
	cancel()
	p.Wait()
	if err := os.WriteFile(file, []byte(`[{"name":"b","port":"x"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPeers(t.Context(), PeersConfig{Endpoint: a.endpoint, File: file}); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("%v", err)
	}
}

func TestSlowFollowerIsLetGo(t *testing.T) {
	p := &Peers{ctx: t.Context(), entries: map[string]*entry{}, followers: map[*follower]bool{}}
	w, err := New(Config{Peer: "b", Open: Dial(nil, "", channel.Target{})})
	if err != nil {
		t.Fatal(err)
	}
	e := &entry{kept: kept{Name: "b"}, watcher: w}
	p.entries["b"] = e
	entered, free := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- p.Follow(t.Context(), "", func(_ Peer, changes []Change) error {
			if changes == nil {
				close(entered)
				<-free
			}
			return nil
		})
	}()
	<-entered
	for range maxBehind + 1 {
		p.tell(e, Status{}, []Change{{Code: verify.Freshness}})
	}
	close(free)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "were not taken") {
		t.Errorf("%v", err)
	}
}
