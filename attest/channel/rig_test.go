package channel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
)

// host is an agent with an AK of its own. What it sends is evidence reduced to
// what a channel is about: a signature over the binding's qualification, a
// state, and how far the log has come.
type host struct {
	name   string
	ak     *ecdsa.PrivateKey
	akName []byte
	key    *ecdsa.PrivateKey
	world  *world
	good   atomic.Bool
	seq    atomic.Uint64
	quotes atomic.Int64
	pad    int
	delay  time.Duration
	mask   masking
	anyAK  bool
	mu     sync.Mutex
	last   []byte
	bounds []Place
}

// world is whom everybody knows; its hosts' appraisers trust it.
type world struct {
	mu    sync.Mutex
	hosts map[string]*host
}

type fakeEvidence struct {
	AK        []byte
	Good      bool
	First     uint64
	Last      uint64
	Qualified []byte
	Signature []byte
	Pad       []byte
}

func newWorld() *world { return &world{hosts: map[string]*host{}} }

func (w *world) host(t testing.TB, name string) *host {
	t.Helper()
	h := &host{name: name, world: w, ak: newKey(t), key: newKey(t), mask: whole}
	h.akName = nameOf(&h.ak.PublicKey)
	h.good.Store(true)
	h.seq.Store(7)
	w.mu.Lock()
	w.hosts[string(h.akName)] = h
	w.mu.Unlock()
	return h
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func nameOf(k *ecdsa.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		panic(err)
	}
	d := sha256.Sum256(der)
	return append([]byte{0, 0x0b}, d[:]...)
}

// Prove implements Prover.
func (h *host) Prove(ctx context.Context, b evidence.Binding, from Place) ([]byte, error) {
	h.quotes.Add(1)
	select {
	case <-time.After(h.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return h.sign(qualify(h.mask(b)), from), nil
}

// sign is the TPM: it quotes whatever it is given.
func (h *host) sign(qualified []byte, from Place) []byte {
	der, err := x509.MarshalPKIXPublicKey(&h.ak.PublicKey)
	if err != nil {
		panic(err)
	}
	e := fakeEvidence{AK: der, Good: h.good.Load(), First: max(1, from.Seq), Last: h.seq.Load(), Qualified: qualified, Pad: make([]byte, h.pad)}
	d := e.digest()
	if e.Signature, err = ecdsa.SignASN1(rand.Reader, h.ak, d[:]); err != nil {
		panic(err)
	}
	out, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return out
}

func (e *fakeEvidence) digest() [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%x %t %d %d %x", e.AK, e.Good, e.First, e.Last, e.Qualified))
}

// Begin implements Appraiser.
func (h *host) Begin([]byte) Appraisal { return h }

// From implements Appraisal.
func (h *host) From() Place {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.bounds) == 0 {
		return Place{}
	}
	return h.bounds[len(h.bounds)-1]
}

// Appraise implements Appraisal; mask makes it a naive one.
func (h *host) Appraise(_ context.Context, text []byte, want verify.Expect) (*verify.Verdict, error) {
	var e fakeEvidence
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	k, err := x509.ParsePKIXPublicKey(e.AK)
	if err != nil {
		return nil, err
	}
	ak, ok := k.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("AK is no ECDSA key")
	}
	h.world.mu.Lock()
	from := h.world.hosts[string(nameOf(ak))]
	h.world.mu.Unlock()
	v := &verify.Verdict{Result: verify.Trusted}
	refuse := func(code, message string) (*verify.Verdict, error) {
		v.Result = verify.NotTrusted
		v.Claims = []verify.Claim{{Name: verify.FileSystem, Status: verify.Contraindicated,
			Reasons: []verify.Reason{{Code: code, Message: message, Hint: "look", Status: verify.Contraindicated}}}}
		return v, nil
	}
	d := e.digest()
	switch {
	case from == nil:
		return refuse("unknown", "AK is not known")
	case !ecdsa.VerifyASN1(ak, d[:], e.Signature):
		return refuse("signature", "signature is not the AK's")
	case !h.anyAK && !bytes.Equal(nameOf(ak), want.Binding.AKName):
		return refuse("other-key", "evidence is by another AK than the peer said")
	case !bytes.Equal(e.Qualified, qualify(h.mask(want.Binding))):
		return refuse("binding", "quote is not for this channel")
	}
	v.Host = from.name
	if !e.Good {
		return refuse("violation", "policy violation of web in default")
	}
	h.mu.Lock()
	h.last = text
	h.bounds = append(h.bounds, Place{Epoch: [32]byte{1}, Seq: e.Last + 1})
	h.mu.Unlock()
	return v, nil
}

func (h *host) endpoint(t testing.TB, change func(*Config)) *Endpoint {
	t.Helper()
	cfg := Config{Key: h.key, AKName: h.akName, Prover: h, Appraiser: h, Limits: Limits{QuoteEvery: time.Millisecond, QuoteBurst: 1000}}
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// wire is a connection over loopback; both ends are closed with the test.
func wire(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// timeless runs a test where time passes only when everybody waits for it: limits
// of time are then exact, however busy the machine is. Connections are network's.
func timeless(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// network is a connection as wire's, for within a bubble of time: what is written
// is on its way, whether or not anybody reads.
func network(t testing.TB) (client, server net.Conn) {
	client, near := net.Pipe()
	far, server := net.Pipe()
	carry := func(from, to net.Conn) {
		way := make(chan []byte, 1<<10)
		go func() {
			defer close(way)
			b := make([]byte, 16<<10)
			for {
				n, err := from.Read(b)
				if n > 0 {
					way <- bytes.Clone(b[:n])
				}
				if err != nil {
					return
				}
			}
		}()
		go func() {
			defer to.Close()
			for b := range way {
				if _, err := to.Write(b); err != nil {
					from.Close()
				}
			}
		}()
	}
	carry(near, far)
	carry(far, near)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// outcome is one side of a handshake.
type outcome struct {
	conn *Conn
	err  error
}

func inBackground(f func() (*Conn, error)) <-chan outcome {
	ch := make(chan outcome, 1)
	go func() {
		c, err := f()
		ch <- outcome{c, err}
	}()
	return ch
}

// pair opens a channel from a to b.
func pair(t testing.TB, a, b *Endpoint) (client, server *Conn) {
	t.Helper()
	cw, sw := wire(t)
	return pairOver(t, a, b, cw, sw)
}

func pairOver(t testing.TB, a, b *Endpoint, cw, sw net.Conn) (client, server *Conn) {
	t.Helper()
	srv := inBackground(func() (*Conn, error) { return b.Server(t.Context(), sw) })
	client, err := a.Client(t.Context(), cw, Target{})
	s := <-srv
	if err != nil || s.err != nil {
		t.Fatalf("client: %v\nserver: %v", err, s.err)
	}
	t.Cleanup(func() { client.Close(); s.conn.Close() })
	return client, s.conn
}

func within(t testing.TB, what string, f func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// wrong is the *Error that err must be, in a phase.
func wrong(t testing.TB, err error, phase Phase) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v (%T), wanted an *Error", err, err)
	}
	if e.Phase != phase {
		t.Fatalf("phase %q, wanted %q: %v", e.Phase, phase, e)
	}
	if e.Peer == "" || e.Reason == "" {
		t.Fatalf("error names no peer or reason: %#v", e)
	}
	return e
}

// masking is what is left of a binding.
type masking func(evidence.Binding) evidence.Binding

func qualify(b evidence.Binding) []byte {
	q := evidence.Qualification(b)
	return q[:]
}
