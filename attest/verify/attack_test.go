package verify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
)

// naive is a verifier as one is quickly written: the quote's signature verifies
// with the key that came with it, the qualification is what the evidence says,
// and the log replays in the bank one looks at. Each option adds one thing that
// a better one would have thought of.
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
	_, err = eventlog.Verify(slices2(e.Log.Lines), nil)
	return err == nil
}

func slices2(lines [][]byte) func(func([]byte, error) bool) {
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

// violation has a machine run something that counts against it, and gives the
// log as it was before.
func violation(w *world) (before [][]byte) {
	w.host.launch("default", "web")
	before = w.host.lines(1)
	w.host.add("violation", "default", "web", raw(`{"rule":"exec"}`))
	return before
}

func TestLogRolledBack(t *testing.T) {
	w := newWorld(t)
	before := violation(w)
	refused(t, w.appraise(w.host.evidence(ask{nonce: nonce})), "violation")
	w.fools(w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) { e.Log.Lines = before }}), "replay")
}

func TestLogTruncatedInTheMiddle(t *testing.T) {
	w := newWorld(t)
	before := violation(w)
	w.host.add("exec", "default", "web", raw(`{"exec":"a"}`))
	b := w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) {
		// The batch with the violation is left out.
		e.Log.Lines = append(slices.Clone(before), e.Log.Lines[len(before)+2:]...)
	}})
	refused(t, w.appraise(b), "log-altered")
}

// A forger who knows the format makes the log go on without the violation: every
// hash in it fits.
func TestLogForked(t *testing.T) {
	w := newWorld(t)
	before := violation(w)
	forged := fork(t, before, eventlog.Record{Type: "exec", Time: eventlog.Time{Time: now}, Namespace: "default", Container: "web", Salted: []eventlog.Salted{}, Body: raw(`{"exec":"a"}`)})
	b := w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) { e.Log.Lines = forged }})
	w.fools(b, "replay")
}

// A tail beyond the quote claims nothing, whatever it says.
func TestForgedTailClaimsNothing(t *testing.T) {
	w := newWorld(t)
	w.host.launch("default", "web")
	lines := fork(t, w.host.lines(1), eventlog.Record{Type: "launch", Time: eventlog.Time{Time: now}, Namespace: "default", Container: "forged", Salted: []eventlog.Salted{}, Body: raw(`{"image":{"manifest":"%s"},"policy":{"digest":"pol-1"}}`, manifest)})
	b := w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) { e.Log.Lines = lines }})
	v := w.trusted(b)
	if len(v.Containers) != 1 || v.Containers[0].ID != "web" || v.Unproven != 1 {
		t.Errorf("%+v", v)
	}
	if r, err := eventlog.Verify(slices2(lines), nil); err != nil || r.Records != v.Proven+1 {
		t.Errorf("a verifier that does not look at the PCR believes %+v, %v", r, err)
	}
}

// fork adds a batch with one record to lines, as the log itself would.
func fork(t testing.TB, lines [][]byte, rec eventlog.Record) [][]byte {
	t.Helper()
	last, err := eventlog.DecodeLine(lines[len(lines)-1])
	if err != nil {
		t.Fatal(err)
	}
	blinds := map[string]eventlog.Hash{}
	for _, b := range lines {
		l, err := eventlog.DecodeLine(b)
		if err != nil {
			t.Fatal(err)
		}
		if l.Item != nil {
			r, err := l.Item.Open()
			if err != nil {
				t.Fatal(err)
			}
			blinds[r.Namespace] = l.Item.Blind
		}
	}
	text, err := eventlog.Marshal(&rec)
	if err != nil {
		t.Fatal(err)
	}
	item := &eventlog.Item{Epoch: last.Batch.Epoch, Seq: last.Batch.Last() + 1, Blind: blinds[rec.Namespace], Salts: []eventlog.Salt{}, Record: text}
	c, err := item.Close()
	if err != nil {
		t.Fatal(err)
	}
	one, err := (&eventlog.Line{Item: item}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	before := tpm.Values{tpm.SHA1: last.Batch.After.SHA1, tpm.SHA256: last.Batch.After.SHA256}
	after := before.Extended(tpm.HashAll(before.Banks(), eventlog.EventData(item.Epoch, item.Seq, []eventlog.Hash{c.Digest()})))
	b := &eventlog.Batch{Epoch: item.Epoch, First: item.Seq, Count: 1, Before: last.Batch.After, After: last.Batch.After}
	b.After.SHA1, b.After.SHA256 = after[tpm.SHA1], after[tpm.SHA256]
	two, err := (&eventlog.Line{Batch: b}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return append(slices.Clone(lines), one, two)
}

// The log is deleted, with its head file, and begun anew over a PCR that is not
// at its beginning. The agent says so; a forged first record that does not is
// found out.
func TestEpochLaundered(t *testing.T) {
	w := newWorld(t)
	violation(w)
	prior := verify.Appraise(w.input(w.host.evidence(ask{nonce: nonce}))).Next
	w.host.stop()
	if err := os.RemoveAll(w.host.dir); err != nil {
		t.Fatal(err)
	}
	w.host.start()
	w.host.launch("default", "web")
	b := w.host.evidence(ask{nonce: nonce})
	w.fools(b, "log-history-lost")
	in := w.input(b)
	in.Prior = prior
	refused(t, verify.Appraise(in), "epoch-laundered")

	// The same with a liar for an agent.
	w = newWorld(t)
	violation(w)
	lines := relog(t, w.host, w.host.chip.pcrs[13])
	w.fools(w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) { e.Log.Lines = lines }}), "epoch-laundered")
}

// relog writes a clean log whose first record claims that the epoch is trusted
// although it begins over the present value, and extends the chip with it.
func relog(t testing.TB, m *machine, initial tpm.Values) [][]byte {
	t.Helper()
	fresh := newChip()
	fresh.reset = m.chip.reset
	dir := t.TempDir()
	l, err := eventlog.Open(t.Context(), eventlog.Config{Dir: dir, Device: fresh, PCR: 13, BootID: "boot-1", Instance: "i", Watch: -1, Initial: nil})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var item []byte
	if err := l.Read(t.Context(), 1, false, func(_ uint64, b []byte) error {
		if item == nil {
			item = b
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	d, err := eventlog.DecodeLine(item)
	if err != nil {
		t.Fatal(err)
	}
	zero := tpm.Zero(initial.Banks())
	for b, v := range initial {
		d.Item.Record = bytes.Replace(d.Item.Record, hexOf(b.String(), zero[b]), hexOf(b.String(), v), 1)
	}
	again := &eventlog.Item{Epoch: d.Item.Epoch, Seq: 1, Blind: d.Item.Blind, Salt: d.Item.Salt, Salts: d.Item.Salts, Record: d.Item.Record}
	c, err := again.Close()
	if err != nil {
		t.Fatal(err)
	}
	digests := tpm.HashAll(initial.Banks(), eventlog.EventData(again.Epoch, 1, []eventlog.Hash{c.Digest()}))
	if err := m.chip.Extend(t.Context(), 13, digests); err != nil {
		t.Fatal(err)
	}
	after := initial.Extended(digests)
	b := &eventlog.Batch{Epoch: again.Epoch, First: 1, Count: 1}
	b.Before.SHA1, b.Before.SHA256 = initial[tpm.SHA1], initial[tpm.SHA256]
	b.After.SHA1, b.After.SHA256 = after[tpm.SHA1], after[tpm.SHA256]
	one, err := (&eventlog.Line{Item: again}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	two, err := (&eventlog.Line{Batch: b}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{one, two}
}

func hexOf(name string, v []byte) []byte {
	return []byte(`"` + name + `":"` + strings.ToLower(hexString(v)) + `"`)
}

func hexString(v []byte) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range v {
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// The TPM is reset within the boot, and the clean log written anew.
func TestTPMReset(t *testing.T) {
	w := newWorld(t)
	violation(w)
	v := w.appraise(w.host.evidence(ask{nonce: nonce}))
	lines := w.host.lines(1)
	w.host.chip.boot()
	// The old log with the reset TPM.
	w.fools(w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) { e.Log.Lines = lines }}), "tpm-reset")
	// The agent goes on in a new epoch, and says why.
	w.host.stop()
	w.host.start()
	b := w.host.evidence(ask{nonce: nonce})
	w.fools(b, "log-tpm-reset")
	in := w.input(b)
	in.Prior = v.Next
	refused(t, verify.Appraise(in), "log-tpm-reset")
}

func TestKexec(t *testing.T) {
	w := newWorld(t)
	w.host.stop()
	w.host.boot = "boot-2" // the PCRs go on
	w.host.start()
	w.fools(w.host.evidence(ask{nonce: nonce}), "kexec")
}

// A reboot is no attack: the new log names the end of the old one. One that does
// not is asked about.
func TestReboot(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		w := newWorld(t)
		w.host.launch("default", "web")
		prior := w.trusted(w.host.evidence(ask{nonce: nonce})).Next
		w.host.stop()
		if forgets {
			if err := os.RemoveAll(w.host.dir); err != nil {
				t.Fatal(err)
			}
		}
		w.host.boot = "boot-2"
		w.host.chip.boot()
		w.host.start()
		in := w.input(w.host.evidence(ask{nonce: nonce}))
		in.Prior = prior
		v := verify.Appraise(in)
		if forgets {
			if !(naive{}).accepts(t, in.Evidence) {
				t.Error("the naive verifier refuses it too")
			}
			refused(t, v, "history-forgotten")
		} else if v.Result != verify.Trusted {
			t.Error(explain(v))
		}
	}
}

// A software TPM's state is copied, something bad happens, and the copy is put
// back. Without a memory nobody can tell; with one it is found, and the
// certificate's class says what to think of it.
func TestClonedState(t *testing.T) {
	w := newWorld(t)
	h := w.host
	h.launch("default", "web")
	saved, log := h.chip.copied(), copyDir(t, h.dir)
	violation(w)
	h.chip.clock += 5000
	prior := w.appraise(h.evidence(ask{nonce: nonce})).Next
	h.stop()
	clone := *h
	clone.chip, clone.dir = saved, log
	clone.openLog()
	b := clone.evidence(ask{nonce: nonce})
	if w.appraise(b).Result != verify.Trusted {
		t.Error("a verifier without a memory finds the copy out: then the attack shows nothing")
	}
	in := w.input(b)
	in.Prior = prior
	refused(t, verify.Appraise(in), "tpm-clock-back")
	// The clone waits until its clock is ahead.
	saved.clock += 1 << 20
	in.Evidence = clone.evidence(ask{nonce: nonce})
	refused(t, verify.Appraise(in), "log-rolled-back")
	// It also has other things happen until its log is as long.
	for range 8 {
		clone.add("exec", "default", "web", raw(`{"exec":"a"}`))
	}
	in.Evidence = clone.evidence(ask{nonce: nonce})
	refused(t, verify.Appraise(in), "log-forked")
	in.Evidence = clone.evidence(ask{nonce: nonce, from: prior.Mark.Seq + 1})
	refused(t, verify.Appraise(in), "log-altered")

	// With the class a CA gives such a TPM, no claim of it is affirmed.
	h.certs = [][]byte{w.ca.certify("host-a", certificate.Software, h.key, now.Add(-time.Hour), now.Add(time.Hour))}
	clone.certs = h.certs
	w.trust = w.policy(strings.Replace(goodTrust, "[hardware]", "[software]", 1))
	v := w.trusted(clone.evidence(ask{nonce: nonce}))
	for _, name := range []string{verify.Identity, verify.Hardware} {
		if s := v.Claim(name).Status; s == verify.Affirming {
			t.Errorf("%s of a software TPM is %s", name, s)
		}
	}
}

func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(to, "lock")); err != nil {
		t.Fatal(err)
	}
	return to
}

// A bank that the agent does not extend is a bank in which anybody can forge a
// log: the quote shows it.
func TestUnextendedBank(t *testing.T) {
	w := newWorld(t)
	w.host.launch("default", "web")
	w.host.chip.pcrs[13][tpm.SHA1] = make([]byte, tpm.SHA1.Size())
	w.fools(w.host.evidence(ask{nonce: nonce}), "bank-unextended")
	// The forged log does not speak of the bank at all.
	w = newWorld(t)
	w.host.stop()
	w.host.chip = newChip()
	w.host.chip.banks = []tpm.Bank{tpm.SHA256}
	w.host.chip.boot()
	w.host.dir = t.TempDir()
	w.host.start()
	chip := w.host.chip
	chip.banks = []tpm.Bank{tpm.SHA1, tpm.SHA256}
	for i, v := range chip.pcrs {
		v = maps.Clone(v)
		v[tpm.SHA1] = make([]byte, 20)
		chip.pcrs[i] = v
	}
	w.fools(w.host.evidence(ask{nonce: nonce}), "bank-unextended")
}

// Keys twice, or in two letter cases, in a line of the log: readers of JSON
// differ on what they mean.
func TestAmbiguousLines(t *testing.T) {
	w := newWorld(t)
	for _, change := range [][2]string{{`"container":""`, `"container":"","Container":"x"`}, {`"container":""`, `"container":"","container":"x"`}} {
		b := w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) {
			e.Log.Lines[2] = bytes.Replace(e.Log.Lines[2], []byte(change[0]), []byte(change[1]), 1)
		}})
		refused(t, w.appraise(b), "log-altered")
	}
}

// Salts and properties are under no hash of the TPM's: the channel key's
// signature is what covers them.
func TestUnhashedBytesAreCovered(t *testing.T) {
	w := newWorld(t)
	good := w.host.evidence(ask{nonce: nonce})
	for _, change := range []func(*evidence.Evidence){
		func(e *evidence.Evidence) { e.Properties.Manufacturer = "another" },
		func(e *evidence.Evidence) { e.Log.Lines = e.Log.Lines[:len(e.Log.Lines)-2] },
	} {
		e := decoded(t, good)
		change(e)
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		w.fools(b, "signature")
		// With a key of one's own the signature fits, and the quote does not.
		other := *w.host
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		other.channel = k
		if e.SPKI.Own, err = x509.MarshalPKIXPublicKey(k.Public()); err != nil {
			t.Fatal(err)
		}
		w.fools(other.sign(e), "qualification")
	}
	// Another program on the host has the TPM quote its own key: that key is not
	// the one the agent put on record.
	other := *w.host
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other.channel = k
	if other.spki, err = x509.MarshalPKIXPublicKey(k.Public()); err != nil {
		t.Fatal(err)
	}
	w.fools(other.evidence(ask{nonce: nonce}), "channel-key")
}
