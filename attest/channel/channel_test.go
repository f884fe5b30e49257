package channel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealift/sealift/attest/verify"
)

func TestBothSidesKnowEachOther(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	client, server := pair(t, a.endpoint(t, nil), b.endpoint(t, nil))
	if v := client.Verdict(); v.Host != "b" || !bytes.Equal(client.AKName(), b.akName) {
		t.Errorf("client: %+v", v)
	}
	if v := server.Verdict(); v.Host != "a" || !bytes.Equal(server.AKName(), a.akName) {
		t.Errorf("server: %+v", v)
	}
	if !bytes.Equal(client.exporter, server.exporter) || len(client.exporter) != 32 {
		t.Error("exporters differ")
	}
	for _, pass := range []struct{ from, to *Conn }{{client, server}, {server, client}} {
		if _, err := pass.from.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(pass.to, got); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the client's close: %d, %v", n, err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after the client's close: %v", err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}

// net.Pipe has no buffer at all: neither side may wait for the other to read
// before it reads itself.
func TestOverPipe(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a").endpoint(t, nil), w.host(t, "b").endpoint(t, nil)
	cw, sw := net.Pipe()
	client, server := pairOver(t, a, b, cw, sw)
	done := make(chan error, 2)
	for _, c := range []*Conn{client, server} {
		go func() {
			_, err := c.Write(make([]byte, 3*defaultWindow/2))
			done <- err
		}()
		go func() {
			_, err := io.CopyN(io.Discard, c, 3*defaultWindow/2)
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestMuchDataArrivesWhole(t *testing.T) {
	w := newWorld()
	// Proofs between the data, many and big.
	often := func(c *Config) { c.Interval, c.Patience = 5*time.Millisecond, time.Minute }
	hosts := []*host{w.host(t, "a"), w.host(t, "b")}
	hosts[0].pad = 100 << 10
	client, server := pair(t, hosts[0].endpoint(t, often), hosts[1].endpoint(t, often))
	sent := make([]byte, 8<<20)
	rand.Read(sent)
	go func() {
		for b := sent; len(b) > 0; {
			n := min(len(b), 70001)
			if _, err := client.Write(b[:n]); err != nil {
				t.Error(err)
				return
			}
			b = b[n:]
		}
		client.Close()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	if hosts[0].quotes.Load() < 3 {
		t.Errorf("%d proofs meanwhile", hosts[0].quotes.Load())
	}
}

// An application that does not read keeps nobody from proving.
func TestProofsPassStalledData(t *testing.T) { synctest.Test(t, proofsPassStalledData) }

func proofsPassStalledData(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	cw, sw := network(t)
	client, server := pairOver(t, a.endpoint(t, nil), b.endpoint(t, nil), cw, sw)
	client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n, err := client.Write(make([]byte, 2*defaultWindow))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n != defaultWindow {
		t.Fatalf("wrote %d, %v: wanted a full window of %d and a deadline", n, err, defaultWindow)
	}
	for _, c := range []*Conn{client, server} {
		if _, err := c.Attest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	client.SetWriteDeadline(time.Time{})
	go io.Copy(io.Discard, server)
	if _, err := client.Write(make([]byte, 2*defaultWindow)); err != nil {
		t.Fatal(err)
	}
}

func TestDeadlines(t *testing.T) {
	w := newWorld()
	client, server := pair(t, w.host(t, "a").endpoint(t, nil), w.host(t, "b").endpoint(t, nil))
	client.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("a deadline holds until it is set anew")
	}
	client.SetDeadline(time.Now().Add(-time.Second))
	if n, err := client.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(n, err)
	}
	client.SetDeadline(time.Time{})
	if _, err := server.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(make([]byte, 9)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

func TestProvenAgainInTime(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	often := func(c *Config) { c.Interval, c.Patience = 20*time.Millisecond, time.Minute }
	client, _ := pair(t, a.endpoint(t, often), b.endpoint(t, often))
	within(t, "five proofs each", func() bool { return a.quotes.Load() > 5 && b.quotes.Load() > 5 })
	if err := client.Err(); err != nil {
		t.Fatal(err)
	}
	// What is asked for begins where the checkpoint stands.
	b.seq.Store(1000)
	for range 2 {
		if _, err := client.Attest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.From(); got != (Place{Epoch: [32]byte{1}, Seq: 1001}) {
		t.Errorf("asks from %v", got)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !bytes.Contains(a.last, []byte(`"First":1001`)) {
		t.Errorf("the last evidence is not from the checkpoint: %.300s", a.last)
	}
}

func TestLateProofEndsChannel(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	client, server := pair(t, a.endpoint(t, func(c *Config) { c.Interval, c.Patience = 50*time.Millisecond, 100*time.Millisecond }), b.endpoint(t, nil))
	b.world.mu.Lock()
	b.delay = time.Hour
	b.world.mu.Unlock()
	_, err := client.Read(make([]byte, 1))
	e := wrong(t, err, PhaseAgain)
	if !errors.Is(err, context.DeadlineExceeded) || e.Hint == "" {
		t.Errorf("%v", err)
	}
	_, err = server.Read(make([]byte, 1))
	if e := wrong(t, err, PhaseOpen); !strings.Contains(e.Reason, "late") {
		t.Errorf("the peer is told: %v", err)
	}
}

// A timer that did not fire, as on a machine that slept, changes nothing.
func TestOldProofPassesNoByte(t *testing.T) {
	w := newWorld()
	shift := make(chan time.Duration, 1)
	shift <- 0
	clock := func() time.Time {
		d := <-shift
		shift <- d
		return time.Now().Add(d)
	}
	client, server := pair(t, w.host(t, "a").endpoint(t, func(c *Config) { c.Clock = clock }), w.host(t, "b").endpoint(t, nil))
	if _, err := server.Write([]byte("before")); err != nil {
		t.Fatal(err)
	}
	within(t, "data arrives", func() bool {
		client.mu.Lock()
		defer client.mu.Unlock()
		return client.pending.size == 6
	})
	<-shift
	shift <- time.Minute
	n, err := client.Read(make([]byte, 6))
	if wrong(t, err, PhaseAgain); n != 0 {
		t.Errorf("%d bytes passed", n)
	}
}

// The verdict falls in mid-stream: of what is under way, buffered or being
// written, nothing more passes.
func TestFallenVerdictStopsEveryByte(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	client, server := pair(t, a.endpoint(t, nil), b.endpoint(t, nil))
	// The client's application has read nothing yet of what lies here.
	if _, err := server.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	within(t, "data arrives", func() bool {
		client.mu.Lock()
		defer client.mu.Unlock()
		return client.pending.size == 100
	})
	b.good.Store(false)
	_, err := client.Attest(t.Context())
	e := wrong(t, err, PhaseAppraise)
	if e.Verdict == nil || e.Verdict.Result != verify.NotTrusted || !e.Verdict.Has("violation") || !strings.Contains(e.Reason, "policy violation of web in default") {
		t.Fatalf("%+v", e)
	}
	if n, err := client.Read(make([]byte, 100)); n != 0 || !errors.Is(err, error(e)) {
		t.Errorf("read %d bytes of a fallen peer, %v", n, err)
	}
	if n, err := client.Write([]byte("secret")); n != 0 || !errors.Is(err, error(e)) {
		t.Errorf("wrote %d bytes to a fallen peer, %v", n, err)
	}
	if err := client.Err(); !errors.Is(err, error(e)) {
		t.Errorf("Err is %v", err)
	}
	// The other side learns why, and gets nothing more either.
	n, err := server.Read(make([]byte, 1))
	if e := wrong(t, err, PhaseOpen); n != 0 || !strings.Contains(e.Reason, "not trusted") {
		t.Errorf("%d, %v", n, err)
	}
	if n := len(a.endpoint(t, nil).guard.peers); n != 0 {
		t.Errorf("%d peers still counted", n)
	}
}

func TestTarget(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	ea, eb := a.endpoint(t, nil), b.endpoint(t, nil)
	for _, x := range []struct {
		target Target
		phase  Phase
	}{
		{Target{Host: "c"}, PhaseAppraise},
		{Target{Host: "b", AKName: a.akName}, PhaseHello},
	} {
		cw, sw := wire(t)
		srv := inBackground(func() (*Conn, error) { return eb.Server(t.Context(), sw) })
		_, err := ea.Client(t.Context(), cw, x.target)
		if e := wrong(t, err, x.phase); e.Peer != x.target.Host {
			t.Errorf("peer is %q", e.Peer)
		}
		if s := <-srv; s.err == nil {
			t.Error("server opened")
		}
	}
	cw, sw := wire(t)
	srv := inBackground(func() (*Conn, error) { return eb.Server(t.Context(), sw) })
	c, err := ea.Client(t.Context(), cw, Target{Host: "b", AKName: b.akName})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if s := <-srv; s.err == nil {
		s.conn.Close()
	}
}

// A panic in the appraisal of one peer is a refusal of that peer.
func TestAppraisalThatPanics(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	eb := b.endpoint(t, func(c *Config) { c.Appraiser = panicking{} })
	cw, sw := wire(t)
	srv := inBackground(func() (*Conn, error) { return eb.Server(t.Context(), sw) })
	_, err := a.endpoint(t, nil).Client(t.Context(), cw, Target{})
	wrong(t, err, PhaseProve)
	wrong(t, (<-srv).err, PhaseAppraise)
}

type panicking struct{}

func (p panicking) Begin([]byte) Appraisal { return p }
func (panicking) From() Place              { return Place{} }
func (panicking) Appraise(context.Context, []byte, verify.Expect) (*verify.Verdict, error) {
	panic("evidence from hell")
}

func TestConfigIsChecked(t *testing.T) {
	h := newWorld().host(t, "a")
	for name, change := range map[string]func(*Config){
		"no key":          func(c *Config) { c.Key = nil },
		"no prover":       func(c *Config) { c.Prover = nil },
		"no appraiser":    func(c *Config) { c.Appraiser = nil },
		"no AK":           func(c *Config) { c.AKName = nil },
		"long AK":         func(c *Config) { c.AKName = make([]byte, 67) },
		"interval":        func(c *Config) { c.Interval = -1 },
		"negative limit":  func(c *Config) { c.Limits.PerPeer = -1 },
		"negative time":   func(c *Config) { c.Limits.TLS = -1 },
		"evidence > held": func(c *Config) { c.Limits.Evidence, c.Limits.Held = 2, 1 },
	} {
		cfg := Config{Key: h.key, AKName: h.akName, Prover: h, Appraiser: h}
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: let through", name)
		}
	}
}

// A peer that proves itself in time, judged too slowly: trust lapses all the
// same, and a Write that waits for room does not wait on.
func TestTrustLapsesDuringAppraisal(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	slow := &slowAppraiser{host: a, free: make(chan struct{})}
	client, _ := pair(t, a.endpoint(t, func(c *Config) {
		c.Appraiser, c.Interval, c.Patience = slow, 200*time.Millisecond, 300*time.Millisecond
	}), b.endpoint(t, nil))
	_, err := client.Write(make([]byte, 2*defaultWindow))
	if e := wrong(t, err, PhaseAgain); !errors.Is(err, context.DeadlineExceeded) || e.Hint == "" {
		t.Errorf("%v", err)
	}
	select {
	case <-client.Done():
	default:
		t.Error("still open")
	}
	close(slow.free)
}

type slowAppraiser struct {
	*host
	calls atomic.Int64
	free  chan struct{}
}

func (s *slowAppraiser) Begin([]byte) Appraisal { return s }

// The first is quick; no other minds its context.
func (s *slowAppraiser) Appraise(ctx context.Context, text []byte, want verify.Expect) (*verify.Verdict, error) {
	if s.calls.Add(1) > 1 {
		<-s.free
	}
	return s.host.Appraise(ctx, text, want)
}
