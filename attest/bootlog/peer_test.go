package bootlog_test

import (
	"bytes"
	"crypto"
	"strings"
	"testing"

	"github.com/google/go-eventlog/extract"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	peer "github.com/google/go-eventlog/testdata"

	"github.com/sealift/sealift/attest/bootlog"
	"github.com/sealift/sealift/measure/tpm"
)

// google/go-eventlog and this package agree on logs of real firmware, its own
// collection and ours: events, PCRs, Secure Boot, the kernel's command line.
func TestAgreesWithGoEventlog(t *testing.T) {
	for name, b := range map[string][]byte{
		"arch": peer.ArchLinuxWorkstationEventLog, "rhel-8": peer.Rhel8EventLog,
		"ubuntu-18.04": peer.Ubuntu1804AmdSevEventLog, "ubuntu-21.04, no dbx": peer.Ubuntu2104NoDbxEventLog,
		"ubuntu-21.04, no Secure Boot": peer.Ubuntu2104NoSecureBootEventLog, "cos-85": peer.Cos85AmdSevEventLog,
		"cos-93": peer.Cos93AmdSevEventLog, "cos-101": peer.Cos101AmdSevEventLog, "glinux": peer.GlinuxAlexEventLog,
		"ubuntu-24.04": peer.Ubuntu2404AmdSevSnpEventLog,
		"ovmf-direct":  file(t, "ovmf-direct.bin"), "ovmf-grub": file(t, "ovmf-grub.bin"),
	} {
		l, err := bootlog.Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e, ok := l.Intact(); !ok {
			t.Errorf("%s: %s in PCR %d is not the hash of its data", name, e.Type, e.PCR)
		}
		agree(t, name, b, l)
	}
	// A log of TPM 1.2's format has SHA-1 only.
	if _, err := bootlog.Parse(peer.Debian10EventLog); err == nil {
		t.Error("a log without a header of its banks: accepted")
	}
}

func agree(t *testing.T, name string, raw []byte, l *bootlog.Log) {
	t.Helper()
	for bank, hash := range map[tpm.Bank]crypto.Hash{tpm.SHA1: crypto.SHA1, tpm.SHA256: crypto.SHA256, tpm.SHA384: crypto.SHA384} {
		if !contains(l.Banks, bank) {
			continue
		}
		registers := func(change int) []register.MR {
			var out []register.MR
			for pcr, v := range l.Replay([]tpm.Bank{bank}) {
				d := bytes.Clone(v[bank])
				if pcr == change {
					d[0] ^= 1
				}
				out = append(out, register.PCR{Index: pcr, Digest: d, DigestAlg: hash})
			}
			return out
		}
		theirs, err := tcg.ParseAndReplay(raw, registers(-1), tcg.ParseOpts{})
		if err != nil {
			t.Errorf("%s, %s: with our PCRs it says: %v", name, bank, err)
			continue
		}
		if _, err := tcg.ParseAndReplay(raw, registers(4), tcg.ParseOpts{}); err == nil {
			t.Errorf("%s, %s: it accepts any PCR 4: the comparison shows nothing", name, bank)
		}
		i := 0
		for _, ours := range l.Events {
			if i == len(theirs) || ours.Type == bootlog.NoAction && uint32(theirs[i].UntrustedType()) != uint32(bootlog.NoAction) {
				continue // it leaves out what is extended nowhere
			}
			x := theirs[i]
			i++
			if int(x.MRIndex()) != ours.PCR || uint32(x.UntrustedType()) != uint32(ours.Type) || !bytes.Equal(x.RawData(), ours.Data) || !bytes.Equal(x.ReplayedDigest(), ours.Digests[bank]) && ours.Type != bootlog.NoAction {
				t.Fatalf("%s, %s: event %d is %v in PCR %d, ours %s in PCR %d", name, bank, i, x.UntrustedType(), x.MRIndex(), ours.Type, ours.PCR)
			}
		}
		if i != len(theirs) {
			t.Errorf("%s, %s: %d events, ours are fewer", name, bank, len(theirs))
		}
		f := l.Facts()
		sb, err := extract.SecureBootState(theirs, extract.TPMRegisterConfig)
		switch {
		case err != nil:
			t.Logf("%s, %s: Secure Boot: %v", name, bank, err)
		case f.SecureBoot == nil || *f.SecureBoot != sb.GetEnabled():
			t.Errorf("%s, %s: Secure Boot is %v, ours %v", name, bank, sb.GetEnabled(), f.SecureBoot)
		}
		grub, err := extract.GrubStateFromTPMLog(hash, theirs)
		if err != nil {
			continue // not booted by GRUB, or by one that it does not follow
		}
		kernel, err := extract.LinuxKernelStateFromGRUB(grub)
		if err != nil || kernel.GetCommandLine() == "" {
			continue
		}
		found := false
		for _, c := range f.CommandLines {
			found = found || c.By == bootlog.GRUB && c.Text == "BOOT_IMAGE="+strings.TrimSuffix(kernel.GetCommandLine(), "\x00")
		}
		if !found {
			t.Errorf("%s, %s: the command line is %q, ours %q", name, bank, kernel.GetCommandLine(), f.CommandLines)
		}
	}
}

func contains(list []tpm.Bank, b tpm.Bank) bool {
	for _, x := range list {
		if x == b {
			return true
		}
	}
	return false
}
