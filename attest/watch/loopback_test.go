package watch

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
)

// agent is one side of a real channel; its evidence is the qualification that a
// quote would be over, and what others shall find in it.
type agent struct {
	t        *testing.T
	endpoint *channel.Endpoint
	ak       []byte
	mu       sync.Mutex
	verdict  *verify.Verdict
	listener net.Listener
	open     map[net.Conn]bool
	wg       sync.WaitGroup
}

// fleet is whom appraisers know, by AK.
type fleet struct {
	mu  sync.Mutex
	all map[string]*agent
}

func (f *fleet) agent(t *testing.T, ak string, interval time.Duration) *agent {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, ak: []byte(ak), verdict: verdict("e1"), open: map[net.Conn]bool{}}
	a.endpoint, err = channel.New(channel.Config{Key: k, AKName: a.ak, Prover: a, Appraiser: fleetAppraiser{f, ""}, Interval: interval})
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.all[ak] = a
	f.mu.Unlock()
	return a
}

func (a *agent) set(v *verify.Verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.verdict = v
}

func (a *agent) Prove(_ context.Context, b evidence.Binding, _ channel.Place) ([]byte, error) {
	q := evidence.Qualification(b)
	return q[:], nil
}

type fleetAppraiser struct {
	*fleet
	ak string
}

func (f fleetAppraiser) Begin(ak []byte) channel.Appraisal {
	return fleetAppraiser{f.fleet, string(ak)}
}
func (f fleetAppraiser) From() channel.Place { return channel.Place{} }
func (f fleetAppraiser) Appraise(_ context.Context, text []byte, want verify.Expect) (*verify.Verdict, error) {
	q := evidence.Qualification(want.Binding)
	f.mu.Lock()
	a := f.all[f.ak]
	f.mu.Unlock()
	if a == nil || !bytes.Equal(q[:], text) {
		return verdict("", "all qualification - the quote is for another channel"), nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.verdict, nil
}

// serve takes channels until stop.
func (a *agent) serve(addr string) string {
	a.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		a.t.Fatal(err)
	}
	a.listener = l
	a.wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			a.mu.Lock()
			a.open[raw] = true
			a.mu.Unlock()
			a.wg.Go(func() {
				c, err := a.endpoint.Server(context.Background(), raw)
				if err != nil {
					return
				}
				<-c.Done()
				c.Close()
			})
		}
	})
	return l.Addr().String()
}

// kill ends the agent as SIGKILL does: its connections are cut.
func (a *agent) kill() {
	a.listener.Close()
	a.mu.Lock()
	for c := range a.open {
		c.Close()
	}
	clear(a.open)
	a.mu.Unlock()
	a.wg.Wait()
}

func TestOverRealChannels(t *testing.T) {
	const interval = 200 * time.Millisecond
	f := &fleet{all: map[string]*agent{}}
	// Its own verdict on the watcher is of no matter here: it looks rarely.
	a, b := f.agent(t, "ak-a", time.Minute), f.agent(t, "ak-b", time.Minute)
	// The port is let go of and taken again: at this address nobody else picks one.
	addr := b.serve("127.0.0.2:0")
	told := make(chan Change, 100)
	w, err := New(Config{
		Peer: "b", Interval: interval, Patience: time.Minute,
		Open: Dial(a.endpoint, addr, channel.Target{Host: "b"}),
		Changed: func(_ Status, changes []Change) {
			for _, c := range changes {
				told <- c
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	next := func(code, text string) {
		t.Helper()
		select {
		case c := <-told:
			if c.Code != code || !strings.Contains(c.Text, text) {
				t.Errorf("told %s %q, wanted %s %q", c.Code, c.Text, code, text)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("not told of %s", code)
		}
	}
	next(TrustBack, "trusted")
	b.set(verdict("e1", violation1))
	next("violation", "policy violation of web in default")
	b.set(verdict("e1"))
	next("violation", "over: policy violation of web in default")
	next(TrustBack, "trusted again")
	b.kill()
	next(AgentStopped, "agent stopped")
	b.serve(addr)
	next(TrustBack, "trusted again")
	// Now it is the peer that refuses.
	b.kill()
	next(AgentStopped, "agent stopped")
	a.set(verdict("e1", foreign))
	b.serve(addr)
	next(RefusedByPeer, "does not trust this host")
	cancel()
	<-done
	b.kill()
	if len(told) != 0 {
		t.Errorf("told besides: %+v", <-told)
	}
}
