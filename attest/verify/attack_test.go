package verify_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/eventlog"
)

// naive is a verifier as one is quickly written: the quote's signature verifies
// with the key that came with it, the qualification is what the evidence says,
// and the log replays in the bank one looks at.
type naive struct{}

func (naive) accepts(t testing.TB, b []byte) bool {
	t.Helper()
	e, err := evidence.Decode(b)
	if err != nil {
		return false
	}
	point := e.AK.Public[len(e.AK.Public)-68:]
	x, y := point[2:34], point[36:]
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return false
	}
	d := sha256.Sum256(e.Quote.Message)
	sig := e.Quote.Signature
	if !ecdsa.Verify(pub, d[:], new(big.Int).SetBytes(sig[6:38]), new(big.Int).SetBytes(sig[40:])) {
		return false
	}
	_, err = eventlog.Verify(each(e.Log.Lines), nil)
	return err == nil
}

// each gives the lines as eventlog.Verify takes them.
func each(lines [][]byte) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		for _, l := range lines {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// fools checks that an attack works on the naive verifier, and that it is
// refused for the reason of that code.
func (w *world) fools(b []byte, code string) {
	w.t.Helper()
	if !(naive{}).accepts(w.t, b) {
		w.t.Errorf("%s: the naive verifier refuses it too: the attack shows nothing", code)
	}
	refused(w.t, w.appraise(b), code)
}

func TestReplays(t *testing.T) {
	w := newWorld(t)
	good := w.host.evidence(ask{nonce: nonce})
	w.trusted(good)

	old := w.host.evidence(ask{nonce: []byte("the nonce of another day")})
	w.fools(old, "nonce")
	// The fields are changed to fit: the quote is not.
	w.fools(w.host.resigned(old, func(e *evidence.Evidence) { e.Nonces.Verifier = nonce }), "qualification")

	none := w.input(good)
	none.Expect.Binding.VerifierNonce = nil
	refused(t, verify.Appraise(none), "freshness-unproven")

	late := w.input(good)
	late.Expect.Issued = now.Add(-time.Hour)
	refused(t, verify.Appraise(late), "nonce-old")

	// An offline quote pasted into a channel, and the other way round.
	in := w.input(good)
	in.Expect.Binding = evidence.Binding{Purpose: evidence.Channel, Exporter: []byte("e"), VerifierNonce: nonce, OwnNonce: []byte("o"), OwnSPKI: w.host.spki, PeerSPKI: []byte("p")}
	refused(t, verify.Appraise(in), "purpose")
	pasted := w.input(w.host.resigned(good, func(e *evidence.Evidence) {
		e.Purpose, e.Exporter, e.Nonces.Own, e.SPKI.Peer = evidence.Channel, []byte("e"), []byte("o"), []byte("p")
	}))
	pasted.Expect = in.Expect
	refused(t, verify.Appraise(pasted), "qualification")
}

// Evidence for one channel is refused on every other: each part of the binding
// counts.
func TestChannelBinding(t *testing.T) {
	w := newWorld(t)
	want := evidence.Binding{Purpose: evidence.Channel, Exporter: []byte("exporter"), VerifierNonce: nonce, OwnNonce: []byte("own"), OwnSPKI: w.host.spki, PeerSPKI: []byte("verifier"), Ticket: []byte("ticket")}
	b := w.host.evidence(ask{nonce: nonce, bind: func(e *evidence.Evidence) {
		e.Purpose, e.Exporter, e.Nonces.Own, e.SPKI.Peer, e.Ticket = want.Purpose, want.Exporter, want.OwnNonce, want.PeerSPKI, want.Ticket
	}})
	in := w.input(b)
	in.Expect.Binding = want
	if v := verify.Appraise(in); v.Result != verify.Trusted {
		t.Fatal(explain(v))
	}
	for code, change := range map[string]func(*evidence.Binding){
		"exporter": func(b *evidence.Binding) { b.Exporter = []byte("another") }, "nonce": func(b *evidence.Binding) { b.VerifierNonce = []byte("another") },
		"own-nonce": func(b *evidence.Binding) { b.OwnNonce = []byte("another") }, "own-key": func(b *evidence.Binding) { b.OwnSPKI = []byte("another") },
		"peer-key": func(b *evidence.Binding) { b.PeerSPKI = []byte("another") }, "ticket": func(b *evidence.Binding) { b.Ticket = nil },
		"other-key": func(b *evidence.Binding) { b.AKName = []byte("another") }, "purpose": func(b *evidence.Binding) { b.Purpose = "" },
	} {
		in := w.input(b)
		in.Expect.Binding = want
		change(&in.Expect.Binding)
		if !(naive{}).accepts(t, b) {
			t.Error("the naive verifier refuses it too")
		}
		refused(t, verify.Appraise(in), code)
	}
}

func TestKeys(t *testing.T) {
	w := newWorld(t)
	h := w.host
	from, to := now.Add(-time.Hour), now.Add(time.Hour)
	certified := func(k *attKey) [][]byte { return [][]byte{w.ca.certify("host-a", certificate.Hardware, k, from, to)} }
	with := func(k *attKey, certs [][]byte, o ask) []byte {
		other := *h
		other.key, other.certs = k, certs
		o.nonce = nonce
		return other.evidence(o)
	}
	good := h.key

	stranger := newKey(t, goodAttrs)
	w.fools(with(stranger, nil, ask{}), "certificate-missing")
	rogue := newAuthority(t, certificate.Platform)
	w.fools(with(stranger, [][]byte{rogue.certify("host-a", certificate.Hardware, stranger, from, to)}, ask{}), certificate.Untrusted)
	// Another key's certificate, and one of the same key with other attributes.
	w.fools(with(stranger, h.certs, ask{}), "certificate-other-key")
	free := keyOf(t, good.PrivateKey, unrestrictedAttrs)
	w.fools(with(free, certified(good), ask{}), "key")
	w.fools(with(free, certified(free), ask{}), "key")
	same := keyOf(t, good.PrivateKey, goodAttrs|1<<10)
	w.fools(with(same, certified(good), ask{}), "certificate-other-key")

	w.fools(with(good, h.certs, ask{quote: func(a *attested) { a.hierarchy = 0x40000001 }}), "key-hierarchy")
	w.fools(with(good, h.certs, ask{quote: func(a *attested) { a.magic = 0x12345678 }}), "quote-type")
	w.fools(with(good, h.certs, ask{quote: func(a *attested) { a.kind = 0x8017 }}), "quote-type")

	w.fools(with(good, [][]byte{w.ca.certify("host-a", certificate.Hardware, good, from, now.Add(-time.Minute))}, ask{}), certificate.Expired)
	w.fools(with(good, [][]byte{w.ca.certify("host-a", certificate.Hardware, good, now.Add(time.Hour), to)}, ask{}), certificate.Early)
	w.fools(with(good, [][]byte{w.ca.certify("host-a", certificate.Software, good, from, to)}, ask{}), "class")
	w.fools(with(good, [][]byte{w.ca.certify("host-b", certificate.Hardware, good, from, to)}, ask{}), "host")

	revoked := *w
	revoked.lists = append(slices.Clone(w.lists), w.ca.list(from, to, h.certs[0]))
	b := h.evidence(ask{nonce: nonce})
	w.trusted(b)
	revoked.fools(b, certificate.Revoked)
}

// A missing or stale revocation list is a no, and an older one than was seen is.
func TestRevocationLists(t *testing.T) {
	w := newWorld(t)
	b := w.host.evidence(ask{nonce: nonce})
	next := w.trusted(b).Next
	for code, lists := range map[string][][]byte{
		certificate.RevocationMissing: nil,
		certificate.RevocationStale:   {w.ca.list(now.Add(-2*time.Hour), now.Add(-time.Hour))},
	} {
		x := *w
		x.lists = lists
		x.fools(b, code)
	}
	newer := w.ca.list(now.Add(-time.Minute), now.Add(time.Hour))
	in := w.input(w.host.evidence(ask{nonce: nonce}))
	in.Revocation = append(in.Revocation, newer)
	in.Prior = next
	v := verify.Appraise(in)
	if v.Result != verify.Trusted {
		t.Fatal(explain(v))
	}
	in.Prior, in.Revocation = v.Next, w.lists
	refused(t, verify.Appraise(in), certificate.RevocationStale)
}

func TestOwners(t *testing.T) {
	w := newWorld(t)
	owner := newAuthority(t, certificate.Owner)
	rogue := newAuthority(t, certificate.Owner)
	p := *w.trust
	p.Owners = append(p.Owners, p.CAs[0])
	p.Owners[0].Name, p.Owners[0].Certificates, p.Owners[0].Classes = "us", []*x509.Certificate{owner.cert}, nil
	w.trust = &p
	w.lists = append(w.lists, owner.list(now.Add(-time.Minute), now.Add(time.Hour)), rogue.list(now.Add(-time.Minute), now.Add(time.Hour)))
	from, to := now.Add(-time.Hour), now.Add(time.Hour)
	h := w.host
	with := func(chain ...[]byte) []byte {
		h.owner = chain
		return h.evidence(ask{nonce: nonce})
	}
	w.trusted(with(owner.certify("host-a", certificate.Hardware, h.key, from, to)))
	w.fools(with(), "owner-missing")
	w.fools(with(rogue.certify("host-a", certificate.Hardware, h.key, from, to)), "owner-"+certificate.Untrusted)
	w.fools(with(owner.certify("host-b", certificate.Hardware, h.key, from, to)), "owner-other")
	w.fools(with(owner.certify("host-a", certificate.Hardware, newKey(t, goodAttrs), from, to)), "owner-other-key")
	w.fools(with(h.certs[0]), "owner-"+certificate.Untrusted)
}

func TestSelections(t *testing.T) {
	w := newWorld(t)
	for _, left := range []int{0, 4, 7, 9, 10, 13, 14} {
		w.fools(w.host.evidence(ask{nonce: nonce, quote: func(a *attested) {
			a.pcrs = slices.DeleteFunc(slices.Clone(a.pcrs), func(p int) bool { return p == left })
		}}), "selection")
	}
	// Another PCR than the log's is quoted, one that anybody can reset.
	w.fools(w.host.evidence(ask{nonce: nonce, quote: func(a *attested) { a.pcrs[11] = 23 }}), "selection")
	p := *w.trust
	p.Bank = "sha384"
	w.trust = &p
	w.fools(w.host.evidence(ask{nonce: nonce}), "bank")
}

// The logs of one host do not pass for those of another.
func TestHostsAreNotExchangeable(t *testing.T) {
	w := newWorld(t)
	b := newMachine(t, w.ca, "host-b")
	b.launch("default", "evil")
	w.host.launch("default", "good")
	good := w.host.evidence(ask{nonce: nonce})
	clean := decoded(t, good)
	w.fools(b.evidence(ask{nonce: nonce}), "host")
	// B's quote with A's log, channel key and name.
	b.channel, b.spki = w.host.channel, w.host.spki
	b.certs = [][]byte{w.ca.certify("host-a", certificate.Hardware, b.key, now.Add(-time.Hour), now.Add(time.Hour))}
	w.fools(b.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) { e.Log = clean.Log }}), "replay")
	// B's quote under A's key.
	w.fools(w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) {
		x, err := evidence.Decode(b.evidence(ask{nonce: nonce}))
		if err != nil {
			t.Fatal(err)
		}
		e.AK, e.Quote = x.AK, x.Quote
	}}), "replay")
}
