package verify_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/tpm"
)

// labelled is an entry as the kernel measured it, under a label of the liar's
// choice: neither the template's name nor, of a violation, anything is under a
// hash.
type labelled struct {
	template, name string
	digest         byte
	signature      []byte
	violation      bool
}

func (x labelled) data() []byte {
	le := func(b []byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...) }
	out := append(le(append([]byte("sha256:\x00"), bytes.Repeat([]byte{x.digest}, 32)...)), le([]byte(x.name+"\x00"))...)
	if x.template != "ima-ng" {
		out = append(out, le(x.signature)...)
	}
	return out
}

func (x labelled) entry() []byte {
	le := func(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }
	data := x.data()
	digest := tpm.SHA1.Hash(data)
	if x.violation {
		digest = make([]byte, 20)
	}
	return slices.Concat([]byte{10, 0, 0, 0}, digest, le(len(x.template)), []byte(x.template), le(len(data)), data)
}

// What the kernel saw is shown under another label: a replaced agent's entry as
// a buffer, a program as IMA's own first entry, a violation as either.
func TestIMALabelsAreNotBelieved(t *testing.T) {
	for name, x := range map[string]struct {
		labelled
		code string
	}{
		"replaced agent as a buffer":     {labelled{"ima-buf", "/usr/local/bin/sealiftd", 0xee, []byte{3, 2}, false}, "agent-replaced"},
		"program as a buffer":            {labelled{"ima-buf", "/usr/sbin/cron", 0xee, []byte{3, 2}, false}, "ima-others"},
		"pathless program as a buffer":   {labelled{"ima-buf", "memfd:x", 0xee, []byte{3, 2}, false}, "ima-others"},
		"program named as the aggregate": {labelled{"ima-ng", imalog.AggregateName, 0xee, nil, false}, "ima-others"},
		"violation as the aggregate":     {labelled{"ima-ng", imalog.AggregateName, 0, nil, true}, "ima-violation"},
		"violation as a buffer":          {labelled{"ima-buf", "kexec-cmdline", 0, nil, true}, "ima-violation"},
	} {
		w, _ := booted(t, bootTrust)
		d := tpm.Values{}
		for _, b := range w.host.chip.banks {
			if d[b] = b.Hash(x.data()); x.violation {
				d[b] = bytes.Repeat([]byte{0xff}, b.Size())
			}
		}
		w.host.extend(imalog.PCR, d)
		w.host.ima = append(bytes.Clone(w.host.ima), x.entry()...)
		v := w.appraise(w.host.evidence(ask{nonce: nonce}))
		if v.Has("replay") || v.Has("ima-log-malformed") {
			t.Fatalf("%s: the label shows: it is no attack: %s", name, explain(v))
		}
		if v.Result == verify.Trusted || !v.Has(x.code) {
			t.Errorf("%s: wanted a no because of %s, got %s", name, x.code, explain(v))
		}
	}
	// A true buffer is no program.
	w, _ := booted(t, bootTrust)
	x := labelled{"ima-buf", "kexec-cmdline", 0, []byte("quiet"), false}
	le := func(b []byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...) }
	data := slices.Concat(le(append([]byte("sha256:\x00"), tpm.SHA256.Hash(x.signature)...)), le([]byte(x.name+"\x00")), le(x.signature))
	d := tpm.Values{}
	for _, b := range w.host.chip.banks {
		d[b] = b.Hash(data)
	}
	w.host.extend(imalog.PCR, d)
	w.host.ima = slices.Concat(w.host.ima, []byte{10, 0, 0, 0}, tpm.SHA1.Hash(data), le([]byte(x.template)), le(data))
	w.trusted(w.host.evidence(ask{nonce: nonce}))
}

// A policy that lists what the kernel may be given is not met by a log that
// calls it a file, or tells of none.
func TestInitrdCalledAFile(t *testing.T) {
	w, b := booted(t, strings.Replace(bootTrust, "initrds: any", "initrds: [\"sha256:"+strings.Repeat("ab", 32)+"\"]", 1))
	refused(t, w.appraise(b), "initrd")
	tag := []byte{9, 0, 0, 0, 6, 0, 0, 0} // PCR 9, EV_EVENT_TAG
	if !bytes.Contains(w.host.bootLog, tag) {
		t.Fatal("no tagged event is there")
	}
	w.host.bootLog = bytes.ReplaceAll(w.host.bootLog, tag, []byte{9, 0, 0, 0, 13, 0, 0, 0})
	v := w.appraise(w.host.evidence(ask{nonce: nonce}))
	if v.Has("replay") {
		t.Fatalf("the label shows: it is no attack: %s", explain(v))
	}
	refused(t, v, "initrd")
}
