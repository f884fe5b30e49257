package verify_test

import (
	"bytes"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/attest/verify"
)

// Every byte of evidence, changed to several others, is refused.
func TestEveryByteChanged(t *testing.T) {
	in := goldenInput(t, "good.json")
	if v := verify.Appraise(in); v.Result != verify.Trusted {
		t.Fatal(explain(v))
	}
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			x := in
			x.Evidence = bytes.Clone(in.Evidence)
			for i := w; i < len(in.Evidence); i += workers {
				was := x.Evidence[i]
				for _, v := range changes(was) {
					x.Evidence[i] = v
					if got := verify.Appraise(x); got.Result == verify.Trusted {
						t.Errorf("byte %d changed from %q to %q: trusted", i, was, v)
					}
				}
				x.Evidence[i] = was
			}
		})
	}
	wg.Wait()
}

// changes are other values of a byte: a digit, a letter's case, and what means
// something in JSON.
func changes(was byte) []byte {
	var out []byte
	for _, v := range []byte{was ^ 1, was ^ 0x20, was ^ 0x80, '0', '"', ','} {
		if v != was {
			out = append(out, v)
		}
	}
	return out
}

// Whoever has the channel key signs what was changed: what the TPM vouches for
// is refused all the same, byte for byte.
func TestEveryByteOfTheQuoteChangedAndSigned(t *testing.T) {
	w := newWorld(t)
	good := w.host.evidence(ask{nonce: nonce})
	for name, of := range map[string]func(*evidence.Evidence) []byte{
		"quote": func(e *evidence.Evidence) []byte { return e.Quote.Message }, "signature": func(e *evidence.Evidence) []byte { return e.Quote.Signature },
		"key": func(e *evidence.Evidence) []byte { return e.AK.Public }, "certificate": func(e *evidence.Evidence) []byte { return e.AK.Certificates[0] },
		"nonce": func(e *evidence.Evidence) []byte { return e.Nonces.Verifier },
	} {
		for i := range of(decoded(t, good)) {
			b := w.host.resigned(good, func(e *evidence.Evidence) { of(e)[i] ^= 0x10 })
			if v := w.appraise(b); v.Result == verify.Trusted {
				t.Errorf("byte %d of the %s changed: trusted", i, name)
			}
		}
	}
}

// Logs as long as they may be, and no place in them that fits: the search ends.
func TestSearchIsBounded(t *testing.T) {
	w := newWorld(t)
	w.host.launch("default", "web")
	boot, ima := bootedLogs(t, w.host)
	w.host.bootLog = boot
	w.host.ima = append(ima, bytes.Repeat(imaEntry("sha256", bytes.Repeat([]byte{3}, 32), "/x"), 200_000)...)
	if len(w.host.ima) > imalog.MaxSize {
		t.Fatal("too long to be looked at")
	}
	b := w.host.evidence(ask{nonce: nonce, quote: func(*attested) { w.host.chip.pcrs[14] = w.host.chip.pcrs[13] }})
	start := processorTime(t)
	refused(t, w.appraise(b), "replay")
	if d := processorTime(t) - start; d > 30*time.Second {
		t.Errorf("it took %v", d)
	}
}

// processorTime is what this process has used of processors: how long something
// takes depends on what else a machine does, what it costs does not.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A verdict is a function of its input: twice the same, and nothing is changed.
func TestAppraiseIsPure(t *testing.T) {
	in := goldenInput(t, "violation.json")
	b := slices.Clone(in.Evidence)
	prior := verify.Appraise(goldenInput(t, "good.json")).Next
	before, err := prior.Encode()
	if err != nil {
		t.Fatal(err)
	}
	in.Prior = prior
	one, two := verify.Appraise(in), verify.Appraise(in)
	if explain(one) != explain(two) {
		t.Errorf("%s\n%s", explain(one), explain(two))
	}
	after, err := prior.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) || !bytes.Equal(b, in.Evidence) {
		t.Error("the input was changed")
	}
}

// FuzzAppraise looks for a panic, and for a trusted verdict on what is not the
// good evidence.
func FuzzAppraise(f *testing.F) {
	good := goldenFile(f, "good.json")
	for _, name := range []string{"good.json", "violation.json", "rolledback.json", "tenant.json"} {
		f.Add(goldenFile(f, name))
	}
	in := goldenInput(f, "good.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		x := in
		x.Evidence = b
		v := verify.Appraise(x)
		v.Tree()
		if v.Result == verify.Trusted && !bytes.Equal(b, good) {
			t.Error("trusted")
		}
	})
}

// FuzzSigned has the fuzzer be the agent: the logs are its own, and signed.
func FuzzSigned(f *testing.F) {
	w := newWorld(f)
	w.host.bootLog, w.host.ima = bootedLogs(f, w.host)
	w.host.launch("default", "web")
	good := w.host.evidence(ask{nonce: nonce})
	e := decoded(f, good)
	f.Add(e.Quote.Message, e.Boot, e.IMA, bytes.Join(e.Log.Lines, []byte("\n")))
	quoted := e.Quote.Message
	f.Fuzz(func(t *testing.T, message, boot, ima, log []byte) {
		e := decoded(t, good)
		e.Quote.Message, e.Boot, e.IMA, e.Log.Lines = message, boot, ima, bytes.Split(log, []byte("\n"))
		if !bytes.Equal(message, quoted) {
			e.Quote.Signature = w.host.key.sign(t, message) // a TPM that signs anything
		}
		if e.Sign(w.host.channel) != nil {
			return
		}
		b, err := e.Encode()
		if err != nil {
			return
		}
		w.appraise(b).Tree()
	})
}

// FuzzCheckpoint reads state files.
func FuzzCheckpoint(f *testing.F) {
	in := goldenInput(f, "good.json")
	next := verify.Appraise(in).Next
	b, err := next.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := verify.DecodeCheckpoint(b)
		if err != nil {
			return
		}
		x := in
		x.Prior = c
		verify.Appraise(x)
	})
}
