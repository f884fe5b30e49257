package verify_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/eventlog"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// Attributes of a good attestation key, and of one that signs anything.
const (
	goodAttrs         = 1<<1 | 1<<4 | 1<<5 | 1<<6 | 1<<16 | 1<<18
	unrestrictedAttrs = 1<<1 | 1<<4 | 1<<5 | 1<<6 | 1<<18
)

// authority is a CA.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	kind certificate.Kind
	crls int64
}

func newAuthority(t testing.TB, kind certificate.Kind) *authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := certificate.AuthorityTemplate("test "+string(kind), kind, now.Add(-time.Hour), now.Add(20*365*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, key: k, cert: c, kind: kind}
}

// certify issues a certificate without having activated anything.
func (a *authority) certify(host string, class certificate.Class, k *attKey, from, to time.Time) []byte {
	a.t.Helper()
	return a.bind(host, class, k.name, &k.PublicKey, from, to)
}

// certifyPublic is certify for a key in a TPM.
func (a *authority) certifyPublic(host string, class certificate.Class, p *key.Public, from, to time.Time) []byte {
	a.t.Helper()
	pub, ok := p.Key().(*ecdsa.PublicKey)
	if !ok {
		a.t.Fatal("not an ECDSA key")
	}
	return a.bind(host, class, p.Name(), pub, from, to)
}

func (a *authority) bind(host string, class certificate.Class, name []byte, pub *ecdsa.PublicKey, from, to time.Time) []byte {
	a.t.Helper()
	ak := &certificate.AK{Kind: a.kind, Host: host, Class: class, Name: name, EK: sha256.Sum256([]byte(host)), Key: pub}
	tmpl, err := ak.Template(from, to)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// list is the CA's next revocation list.
func (a *authority) list(from, to time.Time, revoked ...[]byte) []byte {
	a.t.Helper()
	a.crls++
	l := &x509.RevocationList{Number: big.NewInt(a.crls), ThisUpdate: from, NextUpdate: to}
	for _, der := range revoked {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			a.t.Fatal(err)
		}
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now.Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// machine is a host with an agent.
type machine struct {
	t       testing.TB
	chip    *chip
	key     *attKey
	channel crypto.Signer
	spki    []byte
	dir     string
	log     *eventlog.Log
	boot    string
	certs   [][]byte
	owner   [][]byte
	bootLog []byte
	ima     []byte
}

const goodAgent = "aa11223344556677889900aabbccddeeff00112233445566778899aabbccddee"

func newMachine(t testing.TB, ca *authority, name string) *machine {
	t.Helper()
	m := &machine{t: t, chip: newChip(), key: newKey(t, goodAttrs), dir: t.TempDir(), boot: "boot-1"}
	m.certs = [][]byte{ca.certify(name, certificate.Hardware, m.key, now.Add(-time.Hour), now.Add(100*time.Hour))}
	m.start()
	return m
}

// start starts the agent: a new channel key, the log, the start record.
func (m *machine) start() {
	m.t.Helper()
	m.makeChannel()
	m.openLog()
	m.agentStart(goodAgent)
}

func (m *machine) makeChannel() {
	m.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	m.channel = k
	if m.spki, err = x509.MarshalPKIXPublicKey(k.Public()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) openLog() {
	m.t.Helper()
	var err error
	m.log, err = eventlog.Open(m.t.Context(), eventlog.Config{Dir: m.dir, Device: m.chip, PCR: 13, BootID: m.boot, Instance: "i", Watch: -1, Now: func() time.Time { return now }})
	if err != nil {
		m.t.Fatal(err)
	}
	log := m.log
	m.t.Cleanup(func() { log.Close() })
}

func (m *machine) stop() {
	m.t.Helper()
	if err := m.log.Close(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) agentStart(digest string) {
	d := sha256.Sum256(m.spki)
	m.add("agent-start", "", "", raw(`{"build":"test","executables":[{"name":"sealiftd","path":"/usr/local/bin/sealiftd","sha256":"%s"}],"policy_set":"set-1","channel":"%s"}`, digest, hex.EncodeToString(d[:])))
}

func raw(format string, args ...any) eventlog.Raw { return eventlog.Raw(fmt.Sprintf(format, args...)) }

func (m *machine) add(kind, ns, id string, body any) {
	m.t.Helper()
	if _, err := m.log.Append(m.t.Context(), eventlog.Event{Type: kind, Namespace: ns, Container: id, Body: body}); err != nil {
		m.t.Fatal(err)
	}
}

const manifest = "sha256:00000000000000000000000000000000000000000000000000000000000000aa"

func (m *machine) launch(ns, id string) {
	m.add("launch", ns, id, raw(`{"image":{"name":"busybox","manifest":"%s","config":"c"},"root":{"kind":"overlay","upper":"empty","class":"blob"},"policy":{"digest":"pol-1","content":"enforce","level":"baseline"}}`, manifest))
	m.add("started", ns, id, raw(`{"pid":1}`))
}

// lines are what the agent would send.
func (m *machine) lines(from uint64) [][]byte {
	m.t.Helper()
	var out [][]byte
	err := m.log.Read(m.t.Context(), from, false, func(_ uint64, line []byte) error {
		out = append(out, line)
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// ask is what evidence is asked for.
type ask struct {
	nonce                []byte
	namespace, container string
	from                 uint64
	// between runs after the quote and before the lines are read.
	between func()
	// quote changes what the key signs, last the evidence before its signature.
	quote func(*attested)
	last  func(*evidence.Evidence)
	bind  func(*evidence.Evidence)
}

func (m *machine) evidence(o ask) []byte {
	m.t.Helper()
	e := &evidence.Evidence{
		Version: 1, Purpose: evidence.Offline, Nonces: evidence.Nonces{Verifier: o.nonce}, SPKI: evidence.Keys{Own: m.spki},
		AK: evidence.AK{Public: m.key.public, Certificates: m.certs, Owner: m.owner}, Properties: evidence.Properties{Manufacturer: "TEST"},
		Boot: m.bootLog, IMA: m.ima, Log: evidence.Log{Namespace: o.namespace, Container: o.container, From: max(o.from, 1)},
	}
	if o.bind != nil {
		o.bind(e)
	}
	b, err := e.Binding()
	if err != nil {
		m.t.Fatal(err)
	}
	q := evidence.Qualification(b)
	at := quoting(q[:])
	if o.quote != nil {
		o.quote(&at)
	}
	e.Quote.Message, e.Quote.Signature = m.key.quote(m.t, m.chip, at)
	if o.between != nil {
		o.between()
	}
	for _, line := range m.lines(e.Log.From) {
		shown, err := evidence.View(line, o.namespace, o.container)
		if err != nil {
			m.t.Fatal(err)
		}
		e.Log.Lines = append(e.Log.Lines, shown)
	}
	if o.last != nil {
		o.last(e)
	}
	return m.sign(e)
}

func (m *machine) sign(e *evidence.Evidence) []byte {
	m.t.Helper()
	if err := e.Sign(m.channel); err != nil {
		m.t.Fatal(err)
	}
	out, err := e.Encode()
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// resigned is evidence changed by whoever has the agent's channel key: the
// strongest there is short of the TPM.
func (m *machine) resigned(b []byte, change func(*evidence.Evidence)) []byte {
	m.t.Helper()
	e := decoded(m.t, b)
	change(e)
	return m.sign(e)
}

func decoded(t testing.TB, b []byte) *evidence.Evidence {
	t.Helper()
	e, err := evidence.Decode(bytes.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// world is a CA, a policy that accepts a good machine, and one.
type world struct {
	t     testing.TB
	ca    *authority
	host  *machine
	trust *trust.Policy
	lists [][]byte
}

const goodTrust = `
version: 1
ca:
  - name: fleet
    classes: [hardware]
    file: ca.pem
hosts: [host-a]
boot: {unmeasured: accept, command-line: any}
agent:
  self-reported: accept
  executables: {sealiftd: ["sha256:` + goodAgent + `"]}
  policy-sets: [set-1]
containers:
  images: ["` + manifest + `"]
  policies: [pol-1]
`

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, ca: newAuthority(t, certificate.Platform)}
	w.host = newMachine(t, w.ca, "host-a")
	w.trust = w.policy(goodTrust)
	w.lists = [][]byte{w.ca.list(now.Add(-time.Minute), now.Add(24*time.Hour))}
	return w
}

func (w *world) policy(text string) *trust.Policy {
	w.t.Helper()
	p, err := trust.Parse("trust.yaml", []byte(text), func(string) ([]byte, error) { return []byte(w.ca.pem()), nil })
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

var nonce = []byte("the verifier's own nonce, 32 by.")

// input is what a verifier that gave out the nonce would put together.
func (w *world) input(b []byte) verify.Input {
	return verify.Input{Evidence: b, Trust: w.trust, Now: now, Revocation: w.lists, Expect: verify.Expect{Binding: evidence.Binding{VerifierNonce: nonce}}}
}

func (w *world) appraise(b []byte) *verify.Verdict { return verify.Appraise(w.input(b)) }

func (w *world) trusted(b []byte) *verify.Verdict {
	w.t.Helper()
	v := w.appraise(b)
	if v.Result != verify.Trusted {
		w.t.Fatalf("not trusted: %s", explain(v))
	}
	return v
}

// refused checks that a verdict is no, for the reason of that code.
func refused(t testing.TB, v *verify.Verdict, code string) {
	t.Helper()
	if v.Result == verify.Trusted || !v.Has(code) {
		t.Errorf("wanted a no because of %s, got %s", code, explain(v))
	}
}

func explain(v *verify.Verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", v.Result)
	for _, c := range v.Claims {
		fmt.Fprintf(&b, "  %s: %s\n", c.Name, c.Status)
		for _, r := range c.Reasons {
			fmt.Fprintf(&b, "    %s %s [%s]: %s\n", r.Status, r.Code, r.Subject, r.Message)
		}
	}
	return b.String()
}
