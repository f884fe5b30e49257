package channel

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"testing"

	"github.com/sealift/sealift/attest/evidence"
)

// Naive channels bind less. Each attack here works against one of them, and
// not against what is built.
func whole(b evidence.Binding) evidence.Binding { return b }
func nonceOnly(b evidence.Binding) evidence.Binding {
	return evidence.Binding{VerifierNonce: b.VerifierNonce}
}
func keyOnly(b evidence.Binding) evidence.Binding { return evidence.Binding{OwnSPKI: b.OwnSPKI} }

// variants runs an attack that reports whether it worked.
func variants(t *testing.T, naive masking, attack func(t *testing.T, mask masking) bool) {
	t.Run("naive", func(t *testing.T) {
		if !attack(t, naive) {
			t.Error("the attack does not even work on the naive channel")
		}
	})
	t.Run("built", func(t *testing.T) {
		if attack(t, whole) {
			t.Error("the attack works")
		}
	})
}

// A stranger in the middle passes on all that two honest hosts say, and would
// own the channel they think is theirs.
func TestRelay(t *testing.T) {
	variants(t, nonceOnly, func(t *testing.T, mask masking) bool {
		w := newWorld()
		a, b := w.host(t, "a"), w.host(t, "b")
		a.mask, b.mask = mask, mask
		aw, towardA := wire(t)
		towardB, bw := wire(t)
		cli := inBackground(func() (*Conn, error) { return a.endpoint(t, nil).Client(t.Context(), aw, Target{Host: "b"}) })
		srv := inBackground(func() (*Conn, error) { return b.endpoint(t, nil).Server(t.Context(), bw) })
		overheard := between(meet(t, towardA, true), meet(t, towardB, false))
		c, s := <-cli, <-srv
		if c.err != nil || s.err != nil {
			// The server judges first, and has made no quote.
			if e := wrong(t, s.err, PhaseAppraise); e.Verdict == nil || !e.Verdict.Has("binding") {
				t.Errorf("%+v", e)
			}
			if n := b.quotes.Load(); n != 0 {
				t.Errorf("the server quoted %d times", n)
			}
			return false
		}
		defer s.conn.Close()
		defer c.conn.Close()
		if _, err := c.conn.Write([]byte("secret")); err != nil {
			t.Fatal(err)
		}
		return string(<-overheard) == "secret"
	})
}

// The man in the middle brings the host together with itself.
func TestReflection(t *testing.T) {
	variants(t, nonceOnly, func(t *testing.T, mask masking) bool {
		w := newWorld()
		a := w.host(t, "a")
		a.mask = mask
		// Without the comparison of AKs, which comes first: what else holds?
		for _, compares := range []bool{true, false} {
			a.anyAK = !compares
			aw, towardClient := wire(t)
			towardServer, sw := wire(t)
			as := func(role byte) *Endpoint {
				return a.endpoint(t, func(c *Config) {
					if !compares {
						c.AKName = append([]byte{role}, a.akName...)
					}
				})
			}
			cli := inBackground(func() (*Conn, error) { return as(0).Client(t.Context(), aw, Target{}) })
			srv := inBackground(func() (*Conn, error) { return as(1).Server(t.Context(), sw) })
			between(meet(t, towardClient, true), meet(t, towardServer, false))
			c, s := <-cli, <-srv
			if c.err == nil && s.err == nil {
				c.conn.Close()
				s.conn.Close()
				if compares {
					t.Error("a host took itself for a peer")
				}
				return true
			}
			if compares {
				wrong(t, s.err, PhaseHello)
			} else {
				wrong(t, s.err, PhaseAppraise)
			}
		}
		return false
	})
}

func TestOwnKeyIsRefused(t *testing.T) {
	w := newWorld()
	a := w.host(t, "a")
	copied := w.host(t, "b")
	copied.key = a.key
	cw, sw := wire(t)
	srv := inBackground(func() (*Conn, error) { return a.endpoint(t, nil).Server(t.Context(), sw) })
	_, err := copied.endpoint(t, nil).Client(t.Context(), cw, Target{})
	wrong(t, err, PhaseTLS)
	wrong(t, (<-srv).err, PhaseTLS)
	if a.quotes.Load()+copied.quotes.Load() != 0 {
		t.Error("a quote was made")
	}
}

// An agent that signs whatever it is asked for offline would sign the very
// value that a channel wants to see.
func TestSigningOracle(t *testing.T) {
	for _, oracle := range []bool{true, false} {
		w := newWorld()
		a, b := w.host(t, "a"), w.host(t, "b")
		offline := func(nonce []byte) []byte {
			if oracle {
				return b.sign(nonce, Place{})
			}
			return b.sign(qualify(evidence.Binding{Purpose: evidence.Offline, VerifierNonce: nonce, AKName: b.akName}), Place{})
		}
		aw, mw := wire(t)
		cli := inBackground(func() (*Conn, error) { return a.endpoint(t, nil).Client(t.Context(), aw, Target{Host: "b"}) })
		m := meet(t, mw, true)
		m.expect(kindHello)
		m.hello(b.akName)
		q := decodeRequest(m.expect(kindRequest))
		m.send(kindRequest, request{round: 1}.encode())
		m.evidence()
		m.send(kindAccept, binary.BigEndian.AppendUint32(nil, 1))
		p := proof{round: 1}
		rand.Read(p.nonce[:])
		p.evidence = offline(qualify(evidence.Binding{
			Purpose: evidence.Channel, Exporter: m.exporter, VerifierNonce: q.nonce[:], OwnNonce: p.nonce[:],
			OwnSPKI: m.spki, PeerSPKI: m.peer, AKName: b.akName,
		}))
		m.give(p)
		c := <-cli
		if worked := c.err == nil; worked != oracle {
			t.Errorf("oracle %t: attack worked %t: %v", oracle, worked, c.err)
		}
		if c.err == nil {
			c.conn.Close()
		}
	}
}

// A host that fell shows what it proved while it was good.
func TestYesterdaysEvidence(t *testing.T) {
	for name, naive := range map[string]masking{"key only": keyOnly, "nothing": func(evidence.Binding) evidence.Binding { return evidence.Binding{} }} {
		t.Run(name, func(t *testing.T) {
			variants(t, naive, func(t *testing.T, mask masking) bool {
				w := newWorld()
				a, b := w.host(t, "a"), w.host(t, "b")
				a.mask, b.mask = mask, mask
				client, server := pair(t, a.endpoint(t, nil), b.endpoint(t, nil))
				client.Close()
				server.Close()
				a.good.Store(false)
				b.mu.Lock()
				yesterday := bytes.Clone(b.last)
				b.mu.Unlock()
				e := a.endpoint(t, func(c *Config) { c.Prover = replaying(yesterday) })
				cw, sw := wire(t)
				srv := inBackground(func() (*Conn, error) { return b.endpoint(t, nil).Server(t.Context(), sw) })
				c, err := e.Client(t.Context(), cw, Target{})
				s := <-srv
				if s.err != nil {
					wrong(t, s.err, PhaseAppraise)
					return false
				}
				if err == nil {
					c.Close()
				}
				s.conn.Close()
				return true
			})
		})
	}
}

type replaying []byte

func (r replaying) Prove(context.Context, evidence.Binding, Place) ([]byte, error) { return r, nil }

// Within a channel, too: the first proof does not do for the second.
func TestProofsAreNotRepeated(t *testing.T) {
	variants(t, func(b evidence.Binding) evidence.Binding { b.VerifierNonce, b.OwnNonce = nil, nil; return b }, func(t *testing.T, mask masking) bool {
		w := newWorld()
		a, b := w.host(t, "a"), w.host(t, "b")
		a.mask, b.mask = mask, mask
		again := &repeating{host: b}
		client, _ := pair(t, a.endpoint(t, nil), b.endpoint(t, func(c *Config) { c.Prover = again }))
		_, err := client.Attest(t.Context())
		if err != nil {
			wrong(t, err, PhaseAppraise)
		}
		return err == nil
	})
}

type repeating struct {
	*host
	first []byte
}

func (r *repeating) Prove(ctx context.Context, b evidence.Binding, from Place) (out []byte, err error) {
	if r.first == nil {
		r.first, err = r.host.Prove(ctx, b, from)
	}
	return r.first, err
}

// Host b has fallen and shows host a's evidence, made for the nonce that c
// asked b with, under a's name or its own.
func TestEvidenceOfAnotherHost(t *testing.T) {
	for name, claim := range map[string]func(a, b *host) []byte{
		"its name":   func(a, b *host) []byte { return a.akName },
		"own's name": func(a, b *host) []byte { return b.akName },
	} {
		t.Run(name, func(t *testing.T) {
			variants(t, nonceOnly, func(t *testing.T, mask masking) bool {
				w := newWorld()
				a, b, c := w.host(t, "a"), w.host(t, "b"), w.host(t, "c")
				b.good.Store(false)
				c.anyAK = mask(evidence.Binding{Purpose: evidence.Channel}).Purpose == ""
				a.mask, c.mask = mask, mask

				towardC, cw := wire(t)
				srv := inBackground(func() (*Conn, error) {
					return c.endpoint(t, nil).Server(t.Context(), cw)
				})
				mc := meet(t, towardC, false)
				mc.hello(claim(a, b))
				mc.expect(kindHello)
				q := decodeRequest(mc.expect(kindRequest))

				// A client proves itself first: a calls b.
				aw, towardA := wire(t)
				cli := inBackground(func() (*Conn, error) { return a.endpoint(t, nil).Client(t.Context(), aw, Target{}) })
				ma := meet(t, towardA, true)
				ma.hello(b.akName)
				ma.expect(kindHello)
				ma.expect(kindRequest)
				ma.send(kindRequest, q.encode())
				p := ma.evidence()
				towardA.Close()
				if x := <-cli; x.err == nil {
					t.Fatal("a opened a channel with nobody")
				}

				mc.give(p)
				mc.send(kindRequest, request{round: 1}.encode())
				k, _, err := mc.next()
				worked := err == nil && k == kindAccept
				if n := c.quotes.Load(); n != 0 && !worked {
					t.Errorf("%d quotes for an untrusted host", n)
				}
				towardC.Close()
				if x := <-srv; x.err == nil {
					t.Fatal("c opened a channel with nobody")
				} else if !worked {
					wrong(t, x.err, PhaseAppraise)
				}
				return worked
			})
		})
	}
}

// The bytes of a whole session, sent once more.
func TestReplayedSession(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	cw, sw := wire(t)
	tape := &recorder{Conn: cw}
	client, server := pairOver(t, a.endpoint(t, nil), b.endpoint(t, nil), tape, sw)
	if _, err := client.Write([]byte("pay 100")); err != nil {
		t.Fatal(err)
	}
	client.Close()
	server.Close()
	quotes := b.quotes.Load()

	cw, sw = wire(t)
	srv := inBackground(func() (*Conn, error) { return b.endpoint(t, nil).Server(t.Context(), sw) })
	if _, err := cw.Write(tape.sent.Bytes()); err != nil {
		t.Logf("cut off in mid-replay: %v", err)
	}
	wrong(t, (<-srv).err, PhaseTLS)
	if b.quotes.Load() != quotes {
		t.Error("a quote was made for a recording")
	}
}

type recorder struct {
	net.Conn
	sent bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.sent.Write(b)
	return r.Conn.Write(b)
}
