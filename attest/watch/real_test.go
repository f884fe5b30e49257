package watch

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// authority certifies without activation: enrolment is tested where it is.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	crl  []byte
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	now := time.Now()
	template, err := certificate.AuthorityTemplate("test", certificate.Platform, now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	a.cert = signed(t, template, template, a.key.Public(), a.key)
	a.crl, err = x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour),
	}, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func signed(t testing.TB, template, parent *x509.Certificate, public any, k *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// policy is a trust policy for hosts with software TPMs and an empty boot log.
func (a *authority) policy(t testing.TB) *trust.Policy {
	t.Helper()
	p, err := trust.Parse("trust.yaml", []byte(`
version: 1
ca: [{name: fleet, classes: [software], file: ca.pem}]
hosts: [host-a, host-b]
boot: {unmeasured: accept, command-line: any}
agent: {self-reported: accept, executables: {sealiftd: any}, policy-sets: [set-1]}
log: {states: [trusted], acknowledged: accept}
containers: {images: any, policies: any}
`), func(string) ([]byte, error) {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// realHost has a TPM, a log and an agent's keys; it proves as the agent does.
type realHost struct {
	t        testing.TB
	device   tpm.Device
	log      *eventlog.Log
	ak       *key.AK
	channel  *ecdsa.PrivateKey
	spki     []byte
	chain    [][]byte
	endpoint *channel.Endpoint
	sent     atomic.Int64
}

func newRealHost(t testing.TB, ca *authority, name string) *realHost {
	t.Helper()
	ctx := t.Context()
	h := &realHost{t: t, channel: newKey(t)}
	var err error
	if h.device, err = tpm.Open(ctx, swtpmtest.Start(t).Device()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.device.Close() })
	if h.log, err = eventlog.Open(ctx, eventlog.Config{Dir: t.TempDir(), Device: h.device, PCR: 13, BootID: "boot-" + name, Instance: name}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.log.Close() })
	if h.ak, err = key.Open(ctx, h.device, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if h.spki, err = x509.MarshalPKIXPublicKey(h.channel.Public()); err != nil {
		t.Fatal(err)
	}
	cert := &certificate.AK{Kind: certificate.Platform, Host: name, Class: certificate.Software, Name: h.ak.Name(), EK: sha256.Sum256([]byte(name)), Key: h.ak.Key().(*ecdsa.PublicKey)}
	template, err := cert.Template(time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	h.chain = [][]byte{signed(t, template, ca.cert, h.ak.Key(), ca.key).Raw}
	d := sha256.Sum256(h.spki)
	h.add("agent-start", "", "", `{"build":"test","executables":[{"name":"sealiftd","path":"/sealiftd","sha256":"%s"}],"policy_set":"set-1","channel":"%s"}`,
		strings.Repeat("ab", 32), hex.EncodeToString(d[:]))
	checkpoints, err := channel.OpenCheckpoints(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	policy := ca.policy(t)
	judge := &channel.Judge{Checkpoints: checkpoints, Grounds: func() (channel.Grounds, error) {
		return channel.Grounds{Trust: policy, Revocation: [][]byte{ca.crl}}, nil
	}}
	h.endpoint, err = channel.New(channel.Config{Key: h.channel, AKName: h.ak.Name(), Prover: h, Appraiser: judge,
		Limits: channel.Limits{QuoteEvery: time.Millisecond, QuoteBurst: 1 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *realHost) add(kind, namespace, container, body string, args ...any) {
	h.t.Helper()
	_, err := h.log.Append(h.t.Context(), eventlog.Event{Type: kind, Namespace: namespace, Container: container, Body: eventlog.Raw(fmt.Sprintf(body, args...))})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *realHost) launch(id string) {
	h.add("launch", "default", id, `{"image":{"name":"busybox","manifest":"sha256:%s","config":"c"},"root":{"kind":"overlay","upper":"empty","class":"blob"},"policy":{"digest":"pol-1","content":"enforce","level":"baseline"}}`, strings.Repeat("cd", 32))
	h.add("started", "default", id, `{"pid":1}`)
}

func (h *realHost) Prove(ctx context.Context, b evidence.Binding, from channel.Place) ([]byte, error) {
	e := &evidence.Evidence{
		Version: evidence.Version, Purpose: b.Purpose, Nonces: evidence.Nonces{Verifier: b.VerifierNonce, Own: b.OwnNonce},
		Exporter: b.Exporter, SPKI: evidence.Keys{Own: b.OwnSPKI, Peer: b.PeerSPKI},
		AK: evidence.AK{Public: h.ak.Public.Public(), Certificates: h.chain}, Log: evidence.Log{From: 1},
	}
	if from.Seq > 1 && from.Epoch == h.log.State().Epoch {
		e.Log.From = from.Seq
	}
	if err := h.log.Look(ctx); err != nil {
		return nil, err
	}
	sel := h.device.(tpm.Selector).Select(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14)
	q := evidence.Qualification(b)
	var err error
	if e.Quote.Message, e.Quote.Signature, err = h.ak.Quote(ctx, sel, q[:]); err != nil {
		return nil, err
	}
	err = h.log.Read(ctx, e.Log.From, false, func(_ uint64, line []byte) error {
		e.Log.Lines = append(e.Log.Lines, bytes.Clone(line))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := e.Sign(h.channel); err != nil {
		return nil, err
	}
	out, err := e.Encode()
	h.sent.Store(int64(len(out)))
	return out, err
}

func (h *realHost) serve() (addr string) {
	h.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				c, err := h.endpoint.Server(context.Background(), raw)
				if err != nil {
					h.t.Logf("server: %v", err)
					return
				}
				h.t.Cleanup(func() { c.Close() })
			}()
		}
	}()
	return l.Addr().String()
}

// Two hosts with TPMs of their own, quotes, logs and the verifier as it is: each
// thing that happens on one is told by the other within four seconds, by name.
func TestHostsWithTPMs(t *testing.T) {
	ca := newAuthority(t)
	a, b := newRealHost(t, ca, "host-a"), newRealHost(t, ca, "host-b")
	b.launch("web")
	ctx, cancel := context.WithCancel(t.Context())
	p, err := OpenPeers(ctx, PeersConfig{Endpoint: a.endpoint, File: filepath.Join(t.TempDir(), "peers.json"), Interval: 2 * time.Second, Patience: time.Minute,
		Failed: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Wait()
	defer cancel()
	if err := p.Set("host-b", b.serve()); err != nil {
		t.Fatal(err)
	}
	told := make(chan Change, 100)
	go p.Follow(ctx, "", func(_ Peer, changes []Change) error {
		for _, c := range changes {
			told <- c
		}
		return nil
	})
	next := func(code, text string) {
		t.Helper()
		start := time.Now()
		select {
		case c := <-told:
			if c.Code != code || !strings.Contains(c.Text, text) {
				t.Errorf("told %s %q, wanted %s %q", c.Code, c.Text, code, text)
			}
			t.Logf("told after %s: %s", time.Since(start).Round(time.Millisecond), c.Text)
		case <-time.After(2 * time.Minute):
			t.Fatalf("not told of %s; %+v", code, p.List())
		}
	}
	next(TrustBack, "trusted")
	whole := b.sent.Load()
	if _, err := p.Check(ctx, "host-b"); err != nil {
		t.Fatal(err)
	}
	t.Logf("first evidence %d bytes, one more proof %d", whole, b.sent.Load())

	// Somebody else extends the log's PCR. The log remembers; an operator's word
	// is enough here, because the trust policy says so.
	values := tpm.Values{}
	for _, bank := range b.device.Banks() {
		values[bank] = bytes.Repeat([]byte{7}, bank.Size())
	}
	if err := b.device.Extend(t.Context(), 13, values); err != nil {
		t.Fatal(err)
	}
	next("log-foreign", "foreign extend")
	if s := standing(t, p, "host-b", NotTrusted); s.Verdict.Host != "host-b" || s.Verdict.Result != verify.NotTrusted {
		t.Errorf("%+v", s.Verdict)
	}
	if _, err := b.log.Acknowledge(t.Context(), string(eventlog.Foreign), "it was the firmware's updater"); err != nil {
		t.Fatal(err)
	}
	for over := ""; over != TrustBack; {
		select {
		case c := <-told:
			over = c.Code
		case <-time.After(2 * time.Minute):
			t.Fatalf("trust does not come back: %+v", p.List())
		}
	}

	b.add("violation", "default", "web", `{"rule":"exec"}`)
	next("violation", "policy violation of web in default")
	// Now b is told by a, too: a channel needs two good verdicts.
	if _, err := Dial(b.endpoint, a.serve(), channel.Target{Host: "host-a"})(t.Context()); err == nil || !strings.Contains(err.Error(), "broke its policy") {
		t.Errorf("%v", err)
	}
}

// BenchmarkRealHandshake is opening a channel between two hosts with software
// TPMs: two quotes, two verdicts.
func BenchmarkRealHandshake(b *testing.B) {
	ca := newAuthority(b)
	x, y := newRealHost(b, ca, "host-a"), newRealHost(b, ca, "host-b")
	addr := y.serve()
	for b.Loop() {
		s, err := Dial(x.endpoint, addr, channel.Target{Host: "host-b"})(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// BenchmarkRealProof is one more proof, after a log of 3,000 records was judged
// once.
func BenchmarkRealProof(b *testing.B) {
	ca := newAuthority(b)
	x, y := newRealHost(b, ca, "host-a"), newRealHost(b, ca, "host-b")
	for i := range 1000 {
		id := fmt.Sprint("c", i)
		y.launch(id)
		y.add("deleted", "default", id, `{}`)
	}
	start := time.Now()
	s, err := Dial(x.endpoint, y.serve(), channel.Target{Host: "host-b"})(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	took, whole := time.Since(start), y.sent.Load()
	for b.Loop() {
		if _, err := s.Attest(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(took.Milliseconds()), "handshake-ms")
	b.ReportMetric(float64(whole), "first-bytes")
	b.ReportMetric(float64(y.sent.Load()), "evidence-bytes")
}
