package channel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// short are limits under which hostile peers are given up on quickly.
func short(c *Config) {
	c.Limits = Limits{TLS: 300 * time.Millisecond, Hello: 300 * time.Millisecond, Proof: 500 * time.Millisecond, QuoteEvery: time.Millisecond, QuoteBurst: 1000}
}

// Each of these holds a server's handshake no longer than its phase allows,
// and makes it quote nothing.
func TestPeersThatStall(t *testing.T) {
	for name, x := range map[string]struct {
		phase Phase
		act   func(t *testing.T, raw net.Conn)
	}{
		"silent from the start": {PhaseTLS, func(t *testing.T, raw net.Conn) {}},
		"half a ClientHello": {PhaseTLS, func(t *testing.T, raw net.Conn) {
			if _, err := raw.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}); err != nil {
				t.Error(err)
			}
		}},
		"silent after TLS":   {PhaseHello, func(t *testing.T, raw net.Conn) { meet(t, raw, false) }},
		"silent after HELLO": {PhaseEvidence, func(t *testing.T, raw net.Conn) { meet(t, raw, false).hello([]byte("me")) }},
		"slow evidence": {PhaseEvidence, func(t *testing.T, raw net.Conn) {
			s := meet(t, raw, false)
			s.hello([]byte("me"))
			s.expect(kindHello)
			s.expect(kindRequest)
			s.send(kindEvidence, proof{round: 1, size: 1 << 20}.encode())
			for s.try(kindChunk, []byte{1}) == nil {
				time.Sleep(5 * time.Millisecond)
			}
		}},
	} {
		timeless(t, name, func(t *testing.T) {
			h := newWorld().host(t, "b")
			e := h.endpoint(t, short)
			cw, sw := network(t)
			start := time.Now()
			srv := inBackground(func() (*Conn, error) { return e.Server(t.Context(), sw) })
			x.act(t, cw)
			err := (<-srv).err
			wrong(t, err, x.phase)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			// Each phase to its end, and the time for telling the peer.
			if took := time.Since(start); took > 1100*time.Millisecond+alertTime {
				t.Errorf("took %s", took)
			}
			if n := h.quotes.Load(); n != 0 {
				t.Errorf("%d quotes for a stranger", n)
			}
			nothingHeld(t, e)
		})
	}
}

func nothingHeld(t *testing.T, e *Endpoint) {
	t.Helper()
	within(t, "the guard's counts are back at nothing", func() bool {
		g := e.guard
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.all == 0 && g.strangers == 0 && g.held == 0 && g.open == 0 && len(g.sources) == 0 && len(g.peers) == 0
	})
}

// Frames that are refused at once, whatever the deadlines.
func TestPeersThatBreakTheProtocol(t *testing.T) {
	for name, act := range map[string]func(s *stranger){
		"data instead of HELLO": func(s *stranger) { s.send(kindData, []byte("GET / HTTP/1.1")) },
		"data before evidence":  func(s *stranger) { s.hello([]byte("me")); s.send(kindData, []byte("x")) },
		"huge frame":            func(s *stranger) { s.net.Write([]byte{byte(kindChunk), 0xff, 0xff, 0xff}) },
		"huge evidence": func(s *stranger) {
			s.hello([]byte("me"))
			s.send(kindEvidence, proof{round: 1, size: 1<<32 - 1}.encode())
		},
		"evidence longer than said": func(s *stranger) {
			s.hello([]byte("me"))
			s.expect(kindHello)
			s.expect(kindRequest)
			s.send(kindEvidence, proof{round: 1, size: 3}.encode())
			s.send(kindChunk, []byte("four"))
		},
		"unknown frame": func(s *stranger) { s.net.Write([]byte{200, 0, 0, 0}) },
		"acceptance of nothing": func(s *stranger) {
			s.hello([]byte("me"))
			s.send(kindRequest, request{round: 1}.encode())
			s.send(kindAccept, u32(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newWorld().host(t, "b")
			e := h.endpoint(t, nil)
			cw, sw := wire(t)
			srv := inBackground(func() (*Conn, error) { return e.Server(t.Context(), sw) })
			s := meet(t, cw, false)
			act(s)
			if a := s.refused(); a.code != alertProtocol && a.code != 0 {
				t.Errorf("told %v", a)
			}
			var e2 *Error
			if err := (<-srv).err; !errors.As(err, &e2) || e2.Hint == "" {
				t.Errorf("%v", err)
			}
			if n := h.quotes.Load(); n != 0 {
				t.Errorf("%d quotes for a stranger", n)
			}
			nothingHeld(t, e)
		})
	}
}

// Cut between two TLS records, a connection looks to crypto/tls like one that
// was closed. It is not to its application.
func TestTruncationIsNoEnd(t *testing.T) {
	w := newWorld()
	cw, sw := wire(t)
	client, server := pairOver(t, w.host(t, "a").endpoint(t, nil), w.host(t, "b").endpoint(t, nil), cw, sw)
	if _, err := client.Write([]byte("part one")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if _, err := io.ReadFull(server, got); err != nil {
		t.Fatal(err)
	}
	cw.Close()
	if n, err := server.Read(got); n != 0 || err == io.EOF || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestHandshakeFlood(t *testing.T) { synctest.Test(t, handshakeFlood) }

func handshakeFlood(t *testing.T) {
	h := newWorld().host(t, "b")
	e := h.endpoint(t, func(c *Config) {
		short(c)
		c.Limits.Handshakes, c.Limits.PerSource = 8, 3
		c.Limits.TLS = 1500 * time.Millisecond
	})
	var waiting []<-chan outcome
	flood := func(source string) <-chan outcome {
		_, sw := network(t)
		ch := inBackground(func() (*Conn, error) { return e.Server(t.Context(), fromAddress{sw, source}) })
		waiting = append(waiting, ch)
		return ch
	}
	busy := func(ch <-chan outcome, why string) {
		t.Helper()
		select {
		case o := <-ch:
			if x := wrong(t, o.err, PhaseAdmit); !errors.Is(o.err, errBusy) || !strings.Contains(x.Reason, why) || x.Hint == "" {
				t.Errorf("%v", o.err)
			}
		case <-time.After(time.Millisecond):
			t.Error("not refused at once")
		}
	}
	underWay := func(n int) {
		t.Helper()
		within(t, "handshakes under way", func() bool {
			e.guard.mu.Lock()
			defer e.guard.mu.Unlock()
			return e.guard.all == n
		})
	}
	for range 3 {
		flood("[2001:db8::1]:1000")
	}
	underWay(3)
	// Another address of the same network is the same source.
	busy(flood("[2001:db8::2]:1001"), "with 2001:db8::/64")
	waiting = waiting[:3]
	flood("192.0.2.1:1")
	underWay(4)
	busy(flood("192.0.2.2:1"), "never trusted before")
	waiting = waiting[:4]
	// Who was trusted before still has room.
	e.guard.mu.Lock()
	e.guard.known.put("192.0.2.3", struct{}{})
	e.guard.mu.Unlock()
	flood("192.0.2.3:1")
	underWay(5)
	for _, ch := range waiting {
		wrong(t, (<-ch).err, PhaseTLS)
	}
	nothingHeld(t, e)
	if n := h.quotes.Load(); n != 0 {
		t.Errorf("%d quotes", n)
	}
}

// Handshakes that are over at once cost a processor nonetheless.
func TestStrangersAreSlowedDown(t *testing.T) { synctest.Test(t, strangersAreSlowedDown) }

func strangersAreSlowedDown(t *testing.T) {
	g := newGuard(Limits{Handshakes: 1000, PerSource: 1000, Strangers: 20, Connections: 1, PerPeer: 1})
	try := func(from string, n int) (let int) {
		for range n {
			if release, err := g.admit(from); err == nil {
				release()
				let++
			} else if !errors.Is(err, errBusy) {
				t.Error(err)
			}
		}
		return let
	}
	if n := try("a", 100); n != 5 {
		t.Errorf("%d handshakes of one source at once, wanted 5", n)
	}
	n := 0
	for i := range 100 {
		n += try(string(rune('b'+i)), 1)
	}
	if n != 15 {
		t.Errorf("%d handshakes of many sources at once, wanted 15", n)
	}
	release, err := g.trusted("a", []byte("ak"))
	if err != nil {
		t.Fatal(err)
	}
	release()
	if n := try("a", 100); n != 100 {
		t.Errorf("%d handshakes of a source that was trusted, wanted all", n)
	}
}

// Whoever is sent evidence and does not read it holds nobody longer than the
// phase allows, however many frames it is.
func TestPeersThatDoNotRead(t *testing.T) {
	w := newWorld()
	a := w.host(t, "a")
	a.pad = 1 << 20
	for name, step := range map[string]time.Duration{"not at all": time.Hour, "slowly": 50 * time.Millisecond} {
		timeless(t, name, func(t *testing.T) {
			cw, sw := net.Pipe()
			defer sw.Close()
			e := a.endpoint(t, short)
			cli := inBackground(func() (*Conn, error) { return e.Client(t.Context(), cw, Target{}) })
			s := meet(t, sw, true)
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.hello([]byte("me"))
			}()
			s.expect(kindHello)
			<-done
			go s.try(kindRequest, request{round: 1}.encode())
			s.expect(kindRequest)
			start := time.Now()
			var err error
		reading:
			for {
				select {
				case o := <-cli:
					err = o.err
					break reading
				case <-time.After(step):
					if _, _, err := s.next(); err != nil {
						step = time.Hour
					}
				}
			}
			if took := time.Since(start); took > 500*time.Millisecond+alertTime {
				t.Errorf("took %s", took)
			}
			wrong(t, err, PhaseProve)
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	}
}

type fromAddress struct {
	net.Conn
	addr string
}

func (c fromAddress) RemoteAddr() net.Addr { return address(c.addr) }

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

func TestTrustedPeerIsLimitedToo(t *testing.T) { synctest.Test(t, trustedPeerIsLimitedToo) }

func trustedPeerIsLimitedToo(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	e := b.endpoint(t, func(c *Config) {
		c.Limits = Limits{PerPeer: 2, QuoteEvery: time.Hour, QuoteBurst: 2, Proof: time.Second, Hello: time.Second}
	})
	ea := a.endpoint(t, nil)
	cw, sw := network(t)
	first, _ := pairOver(t, ea, e, cw, sw)
	cw, sw = network(t)
	pairOver(t, ea, e, cw, sw)
	cw, sw = network(t)
	srv := inBackground(func() (*Conn, error) { return e.Server(t.Context(), sw) })
	_, err := ea.Client(t.Context(), cw, Target{})
	var alert *alertError
	if !errors.As(err, &alert) || alert.code != alertBusy {
		t.Errorf("%v", err)
	}
	if err := (<-srv).err; !errors.Is(err, errBusy) {
		t.Errorf("%v", err)
	}
	// The third quote within the hour is not made.
	if _, err := first.Attest(t.Context()); err == nil || b.quotes.Load() != 2 {
		t.Errorf("%d quotes, %v", b.quotes.Load(), err)
	}
}

func TestHugeEvidenceFromManyIsBounded(t *testing.T) {
	h := newWorld().host(t, "b")
	e := h.endpoint(t, func(c *Config) {
		c.Limits.Evidence, c.Limits.Held = 300<<10, 400<<10
	})
	send := func(n int) (*stranger, <-chan outcome) {
		cw, sw := wire(t)
		srv := inBackground(func() (*Conn, error) { return e.Server(t.Context(), sw) })
		s := meet(t, cw, false)
		s.hello([]byte("me"))
		s.expect(kindHello)
		s.expect(kindRequest)
		s.send(kindEvidence, proof{round: 1, size: uint32(n)}.encode())
		for i := 0; i < n-1; i += maxPiece {
			if s.try(kindChunk, make([]byte, min(maxPiece, n-1-i))) != nil {
				break
			}
		}
		return s, srv
	}
	first, firstDone := send(200 << 10)
	within(t, "evidence held", func() bool {
		e.guard.mu.Lock()
		defer e.guard.mu.Unlock()
		return e.guard.held == 200<<10-1
	})
	_, secondDone := send(200 << 10)
	if err := (<-secondDone).err; !errors.Is(err, errBusy) {
		t.Errorf("%v", err)
	}
	first.net.Close()
	if err := (<-firstDone).err; err == nil {
		t.Error("opened")
	}
	nothingHeld(t, e)
}

func TestCancelledHandshakeEnds(t *testing.T) {
	w := newWorld()
	e := w.host(t, "a").endpoint(t, nil)
	for _, deep := range []bool{false, true} {
		cw, sw := wire(t)
		ctx, cancel := context.WithCancel(t.Context())
		cli := inBackground(func() (*Conn, error) { return e.Client(ctx, cw, Target{Host: "b"}) })
		if deep {
			meet(t, sw, true).expect(kindHello)
		}
		cancel()
		if err := (<-cli).err; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}
