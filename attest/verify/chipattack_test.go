package verify_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/tpm"
)

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
