package bootlog_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/bootlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/pcrreadtest"
)

// The logs in testdata were taken from OVMF machines with a software TPM: one
// that firmware starts the kernel of, one with Debian's GRUB; beside each what
// tpm2_pcrread showed then, and the kernel's command line.
var real = []string{"ovmf-direct", "ovmf-grub"}

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parsed(t testing.TB, b []byte) *bootlog.Log {
	t.Helper()
	l, err := bootlog.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRealLogsReplay(t *testing.T) {
	for _, name := range real {
		l := parsed(t, file(t, name+".bin"))
		want := pcrreadtest.Read(t, filepath.Join("testdata", name+".pcrs"))
		got := l.Replay(l.Banks)
		if len(l.Banks) < 2 {
			t.Errorf("%s: banks %v", name, l.Banks)
		}
		for _, pcr := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15} {
			if !got[pcr].Equal(want[pcr]) {
				t.Errorf("%s: PCR %d is %v, replayed %v", name, pcr, want[pcr], got[pcr])
			}
		}
		if e, ok := l.Intact(); !ok {
			t.Errorf("%s: %s in PCR %d is not the hash of its data", name, e.Type, e.PCR)
		}
	}
}

func TestFacts(t *testing.T) {
	for _, name := range real {
		f := parsed(t, file(t, name+".bin")).Facts()
		line := strings.TrimSpace(string(file(t, name+".cmdline")))
		if f.SecureBoot == nil || *f.SecureBoot {
			t.Errorf("%s: Secure Boot is %v", name, f.SecureBoot)
		}
		if len(f.Applications) == 0 || len(f.Initrds) != 1 {
			t.Errorf("%s: %d applications, %d initrds", name, len(f.Applications), len(f.Initrds))
		}
		stub, grub := 0, 0
		for _, c := range f.CommandLines {
			if !c.Is(line) || c.Is(line+" ") || c.Is("") {
				t.Errorf("%s: the command line measured by %s is not %q", name, c.By, line)
			}
			switch c.By {
			case bootlog.EFIStub:
				stub++
			case bootlog.GRUB:
				grub++
			}
		}
		if wanted := strings.Contains(name, "grub"); stub != 1 || (grub == 1) != wanted {
			t.Errorf("%s: %d by the stub, %d by GRUB", name, stub, grub)
		}
		if strings.Contains(name, "grub") {
			var names []string
			for _, x := range f.Files {
				names = append(names, x.Name)
			}
			if !slices.Contains(names, "(hd0)/kernel") || !slices.Contains(names, "(hd0)/initrd") {
				t.Errorf("GRUB read %q", names)
			}
			// What GRUB read as the initrd is what the kernel says it was given.
			if f.Files[len(f.Files)-1].SHA256() != f.Initrds[0].SHA256() {
				t.Error("two initrds")
			}
		}
	}
}

// A log whose data was edited still replays, since data is under no PCR: that is
// the attack. It is no longer intact, or no longer says what it said.
func TestEditedDataIsNotBelieved(t *testing.T) {
	b := file(t, "ovmf-grub.bin")
	good := parsed(t, b)
	for _, change := range [][2]string{
		{"kernel_cmdline: (hd0)/kernel console=ttyS0", "kernel_cmdline: (hd0)/kernel console=ttyS1"},
		{"ima_policy=tcb\x00", "ima_policy=xxx\x00"},
	} {
		c := bytes.ReplaceAll(b, []byte(change[0]), []byte(change[1]))
		if bytes.Equal(b, c) {
			t.Fatalf("%q is not there", change[0])
		}
		l := parsed(t, c)
		if !l.Replay(l.Banks)[8].Equal(good.Replay(l.Banks)[8]) {
			t.Fatal("the edit shows in the PCR: it is no attack")
		}
		for _, line := range l.Facts().CommandLines {
			if line.By == bootlog.GRUB {
				t.Errorf("believed: %q", line.Text)
			}
		}
	}
	// SecureBoot's value is edited to 1.
	name := utf16("SecureBoot")
	i := bytes.Index(b, name)
	c := bytes.Clone(b)
	c = slices.Insert(c, i+len(name), 1)
	binary.LittleEndian.PutUint64(c[i-8:], 1)
	binary.LittleEndian.PutUint32(c[i-36:], binary.LittleEndian.Uint32(b[i-36:])+1)
	l := parsed(t, c)
	if f := l.Facts(); f.SecureBoot != nil && *f.SecureBoot {
		t.Error("Secure Boot is believed to be on")
	}
	if _, ok := l.Intact(); ok {
		t.Error("the edited log is intact")
	}
}

func utf16(s string) []byte {
	var b []byte
	for _, c := range s {
		b = append(b, byte(c), 0)
	}
	return b
}

// made writes a log of one bank by hand.
func made(events ...[]byte) []byte {
	le := binary.LittleEndian
	body := append([]byte("Spec ID Event03"), 0)
	body = append(body, 0, 0, 0, 0, 0, 2, 0, 2)
	body = le.AppendUint32(body, 1)
	body = le.AppendUint16(body, 0xb)
	body = le.AppendUint16(body, 32)
	body = append(body, 0)
	b := le.AppendUint32(nil, 0)
	b = le.AppendUint32(b, 3)
	b = append(b, make([]byte, 20)...)
	b = le.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	return append(b, bytes.Join(events, nil)...)
}

func event(pcr, kind uint32, digest [32]byte, data []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, pcr)
	b = le.AppendUint32(b, kind)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint16(b, 0xb)
	b = append(b, digest[:]...)
	b = le.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func TestStartupLocality(t *testing.T) {
	locality := event(0, 3, [32]byte{}, []byte("StartupLocality\x00\x03"))
	l := parsed(t, made(locality))
	v := l.Replay(l.Banks)[0][tpm.SHA256]
	if v[31] != 3 {
		t.Errorf("PCR 0 begins with %x", v)
	}
	for name, b := range map[string][]byte{
		"late":     made(event(0, 4, sha256.Sum256(make([]byte, 4)), make([]byte, 4)), locality),
		"absurd":   made(event(0, 3, [32]byte{}, []byte("StartupLocality\x00\x09"))),
		"cut":      made(event(0, 3, [32]byte{}, []byte("StartupLocality\x00"))),
		"PCR 24":   made(event(24, 4, [32]byte{}, nil)),
		"no event": append(made(), 0),
		"nothing":  {},
	} {
		if _, err := bootlog.Parse(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Secure Boot measured twice with different words says nothing.
func TestSecureBootTwice(t *testing.T) {
	variable := func(v byte) []byte {
		b := []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
		b = binary.LittleEndian.AppendUint64(b, 10)
		b = binary.LittleEndian.AppendUint64(b, 1)
		b = append(b, utf16("SecureBoot")...)
		b = append(b, v)
		return event(7, 0x80000001, sha256.Sum256(b), b)
	}
	if f := parsed(t, made(variable(1))).Facts(); f.SecureBoot == nil || !*f.SecureBoot {
		t.Error("Secure Boot is on")
	}
	if f := parsed(t, made(variable(0), variable(1))).Facts(); *f.SecureBoot {
		t.Error("measured off and then on: believed")
	}
	if f := parsed(t, made(variable(1), variable(0))).Facts(); *f.SecureBoot {
		t.Error("measured on and then off: believed")
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range real {
		f.Add(file(f, name+".bin"))
	}
	f.Add(made(event(0, 3, [32]byte{}, []byte("StartupLocality\x00\x03"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := bootlog.Parse(b)
		if err != nil {
			return
		}
		l.Replay(l.Banks)
		l.Intact()
		for _, c := range l.Facts().CommandLines {
			c.Is(c.Text)
		}
	})
}
