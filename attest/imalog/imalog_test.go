package imalog_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/pcrreadtest"
)

// testdata holds the log of a Debian 13 machine booted with ima_policy=tcb: as
// the kernel writes it, in its own ASCII form, and what tpm2_pcrread showed a
// few entries before the log was read.
func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parsed(t testing.TB, b []byte) []imalog.Entry {
	t.Helper()
	l, err := imalog.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRealLogIsWhatTheKernelPrints(t *testing.T) {
	entries := parsed(t, file(t, "debian13.bin"))
	lines := strings.Split(strings.TrimSpace(string(file(t, "debian13.ascii"))), "\n")
	for i, e := range entries {
		f := strings.Fields(lines[i])
		if e.Template != f[2] || e.Text() != f[3] || e.Name != strings.Join(f[4:], " ") {
			t.Errorf("entry %d is %s %s %s, the kernel prints %q", i, e.Template, e.Text(), e.Name, lines[i])
		}
	}
	if len(entries) < 50 || len(entries) > len(lines) {
		t.Errorf("%d entries, the kernel prints %d", len(entries), len(lines))
	}
}

// Each bank of PCR 10 is found near the log's end.
func TestRealLogReplays(t *testing.T) {
	entries := parsed(t, file(t, "debian13.bin"))
	pcrs := pcrreadtest.Read(t, filepath.Join("testdata", "debian13.pcrs"))
	if len(pcrs[imalog.PCR]) == 0 {
		t.Fatal("the machine's PCR 10 is not among what was read")
	}
	for bank, want := range pcrs[imalog.PCR] {
		found := false
		for _, v := range imalog.Tail(entries, bank, false, 64) {
			found = found || bytes.Equal(v, want)
		}
		if !found {
			for _, v := range imalog.Tail(entries, bank, true, 64) {
				if bytes.Equal(v, want) {
					t.Logf("%s is padded", bank)
					found = true
				}
			}
		}
		if !found {
			t.Errorf("%s: %x is nowhere in the log", bank, want)
		}
	}
	e := entries[0]
	b, err := tpm.ParseBank(e.Algorithm)
	if err != nil {
		t.Fatal(err)
	}
	if e.Name != imalog.AggregateName || !bytes.Equal(e.Digest, imalog.Aggregate(pcrs, b)) {
		t.Errorf("%s is %s", e.Name, e.Text())
	}
}

func le(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }

func sized(b []byte) []byte { return append(le(len(b)), b...) }

// entry writes one by hand; a violation's digest is zero.
func entry(template, algorithm, name string, more []byte, violation bool) []byte {
	data := append(sized(append([]byte(algorithm+":\x00"), bytes.Repeat([]byte{7}, 32)...)), sized([]byte(name+"\x00"))...)
	data = append(data, more...)
	digest := tpm.SHA1.Hash(data)
	if violation {
		digest = make([]byte, 20)
	}
	b := append(le(10), digest...)
	b = append(b, sized([]byte(template))...)
	return append(b, sized(data)...)
}

func TestViolationsExtendOnes(t *testing.T) {
	l := parsed(t, entry("ima-ng", "sha256", "/etc/x", nil, true))
	if !l[0].Violation {
		t.Error("no violation")
	}
	want := tpm.SHA256.Hash(make([]byte, 32), bytes.Repeat([]byte{0xff}, 32))
	for _, padded := range []bool{false, true} {
		if v := imalog.Tail(l, tpm.SHA256, padded, 0); len(v) != 1 || !bytes.Equal(v[0], want) {
			t.Errorf("%x", v)
		}
	}
}

func TestTemplates(t *testing.T) {
	l := parsed(t, bytes.Join([][]byte{
		entry("ima-ng", "sha256", "/a", nil, false), entry("ima-sig", "sha256", "/b", sized([]byte("sig")), false),
		entry("ima-buf", "sha256", "kexec-cmdline", sized([]byte("buf")), false), entry("ima-ngv2", "verity:sha256", "/c", nil, false),
		entry("ima-ngv2", "ima:sha256", "/d", nil, false),
	}, nil))
	if len(l) != 5 || string(l[1].Signature) != "sig" || string(l[2].Buffer) != "buf" || l[3].Algorithm != "verity:sha256" || l[4].Algorithm != "sha256" {
		t.Errorf("%+v", l)
	}
	// SHA-1 with zeroes behind it, as kernels before 5.8 extend it.
	padded := append(tpm.SHA1.Hash(l0(t)), make([]byte, 12)...)
	if v := imalog.Tail(l[:1], tpm.SHA256, true, 0)[0]; !bytes.Equal(v, tpm.SHA256.Hash(make([]byte, 32), padded)) {
		t.Errorf("%x", v)
	}
}

// l0 is the template data of the first entry of TestTemplates.
func l0(t testing.TB) []byte {
	t.Helper()
	b := entry("ima-ng", "sha256", "/a", nil, false)
	return b[4+20+4+6+4:]
}

func TestParseRefuses(t *testing.T) {
	good := entry("ima-ng", "sha256", "/a", nil, false)
	changed := func(i int, v byte) []byte {
		b := bytes.Clone(good)
		b[i] = v
		return b
	}
	for name, b := range map[string][]byte{
		"the first template": entry("ima", "sha256", "/a", nil, false), "another PCR": changed(0, 11), "another digest": changed(4, good[4]+1),
		"other data": changed(len(good)-3, 'b'), "cut": good[:len(good)-1], "a byte more": append(bytes.Clone(good), 0),
		"a field more": entry("ima-ng", "sha256", "/a", sized(nil), false), "a field less": entry("ima-sig", "sha256", "/a", nil, false),
		"a zero in the name": entry("ima-ng", "sha256", "/a\x00b", nil, false),
	} {
		if _, err := imalog.Parse(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Tail gives the value ahead of the last entries, and after each of them.
func TestTail(t *testing.T) {
	l := parsed(t, bytes.Repeat(entry("ima-ng", "sha256", "/a", nil, false), 5))
	all := imalog.Tail(l, tpm.SHA256, false, 100)
	if len(all) != 6 || !bytes.Equal(all[0], make([]byte, 32)) {
		t.Fatalf("%d values", len(all))
	}
	for keep := range 6 {
		v := imalog.Tail(l, tpm.SHA256, false, keep)
		if len(v) != keep+1 || !bytes.Equal(v[0], all[5-keep]) || !bytes.Equal(v[keep], all[5]) {
			t.Errorf("the last %d: %d values", keep, len(v))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(file(f, "debian13.bin"))
	f.Add(entry("ima-buf", "sha256", "kexec-cmdline", sized([]byte("buf")), false))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := imalog.Parse(b)
		if err != nil {
			return
		}
		imalog.Tail(l, tpm.SHA256, false, 4)
	})
}
