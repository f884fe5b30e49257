package verify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
)

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
	if r, err := eventlog.Verify(each(lines), nil); err != nil || r.Records != v.Proven+1 {
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

// hexOf is a digest as a record has it.
func hexOf(name string, v []byte) []byte { return fmt.Appendf(nil, `"%s":"%x"`, name, v) }

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
