package verify_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/bootlog"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/tpm"
)

// bootedLogs has the machine's TPM go through a real boot: Debian's GRUB and
// kernel under OVMF, with ima_policy=tcb. The IMA log names the agent last.
func bootedLogs(t testing.TB, m *machine, more ...[]byte) (boot, ima []byte) {
	t.Helper()
	boot, err := os.ReadFile("../bootlog/testdata/ovmf-grub.bin")
	if err != nil {
		t.Fatal(err)
	}
	l, err := bootlog.Parse(boot)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range l.Events {
		if e.Type != bootlog.NoAction {
			m.extend(e.PCR, e.Digests)
		}
	}
	pcrs := map[int]tpm.Values{}
	for i := range 10 {
		pcrs[i] = m.chip.pcrs[i]
	}
	ima = imaEntry("sha256", imalog.Aggregate(pcrs, tpm.SHA256), imalog.AggregateName)
	ima = append(ima, imaEntry("sha256", bytes.Repeat([]byte{1}, 32), "/init")...)
	if len(more) == 0 {
		more = [][]byte{agentEntry(goodAgent)}
	}
	for _, b := range more {
		ima = append(ima, b...)
	}
	entries, err := imalog.Parse(ima)
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		d := tpm.Values{}
		for _, b := range m.chip.banks {
			// What extends zero to the tail's value is the entry's own.
			d[b] = b.Hash(templateData(t, ima, i))
		}
		m.extend(imalog.PCR, d)
	}
	return boot, ima
}

func (m *machine) extend(pcr int, d tpm.Values) {
	m.t.Helper()
	if err := m.chip.Extend(m.t.Context(), pcr, d); err != nil {
		m.t.Fatal(err)
	}
}

func agentEntry(digest string) []byte {
	var d []byte
	if _, err := fmt.Sscanf(digest, "%x", &d); err != nil {
		panic(err)
	}
	return imaEntry("sha256", d, "/usr/local/bin/sealiftd")
}

func imaEntry(algorithm string, digest []byte, name string) []byte {
	le := func(b []byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...) }
	data := append(le(append([]byte(algorithm+":\x00"), digest...)), le([]byte(name+"\x00"))...)
	return slices.Concat([]byte{10, 0, 0, 0}, tpm.SHA1.Hash(data), le([]byte("ima-ng")), le(data))
}

// templateData finds the data of the i-th entry.
func templateData(t testing.TB, b []byte, i int) []byte {
	t.Helper()
	for {
		n := int(binary.LittleEndian.Uint32(b[34:]))
		if i == 0 {
			return b[38 : 38+n]
		}
		b, i = b[38+n:], i-1
	}
}

const bootTrust = `
version: 1
ca:
  - {name: fleet, file: ca.pem}
hosts: any
boot:
  secure-boot: any
  applications: any
  files: any
  initrds: any
  command-line: ["BOOT_IMAGE=(hd0)/kernel console=ttyS0 root=/dev/vda rw loglevel=4 panic=-1 random.trust_cpu=on systemd.unit=multi-user.target systemd.show_status=no ima_policy=tcb"]
agent:
  executables: {sealiftd: ["sha256:` + goodAgent + `"]}
  policy-sets: any
ima:
  files: ["sha256:0101010101010101010101010101010101010101010101010101010101010101"]
containers: {images: any, policies: any}
`

func booted(t *testing.T, policy string, more ...[]byte) (*world, []byte) {
	t.Helper()
	w := newWorld(t)
	w.trust = w.policy(policy)
	w.host.bootLog, w.host.ima = bootedLogs(t, w.host, more...)
	w.host.launch("default", "web")
	return w, w.host.evidence(ask{nonce: nonce})
}

// With a measured boot and IMA the agent's build is proven, not told.
func TestMeasuredAgent(t *testing.T) {
	w, b := booted(t, bootTrust)
	v := w.trusted(b)
	if c := v.Claim(verify.Executables); c.Status != verify.Affirming || !v.Has("agent-measured") || v.Has("self-reported") {
		t.Error(explain(v))
	}
}

// A replaced agent puts the good digest on record. On its own word it is
// believed; the kernel saw what really ran.
func TestReplacedAgent(t *testing.T) {
	bad := strings.Repeat("ee", 32)
	selfReported := strings.Replace(bootTrust, "agent:", "agent:\n  self-reported: accept", 1)
	w, b := booted(t, selfReported, agentEntry(bad))
	refused(t, w.appraise(b), "agent-replaced")
	w.host.ima = nil
	w.host.chip.pcrs[imalog.PCR] = tpm.Zero(w.host.chip.banks)
	if v := w.appraise(w.host.evidence(ask{nonce: nonce})); v.Result != verify.Trusted || !v.Has("self-reported") {
		t.Errorf("without IMA nobody can tell, and it says so: %s", explain(v))
	}
	// It has the good one run as well, for show.
	w, b = booted(t, bootTrust, agentEntry(goodAgent), agentEntry(bad))
	refused(t, w.appraise(b), "agent-replaced")
	// It runs under another name.
	w, b = booted(t, bootTrust, agentEntry(goodAgent), imaEntry("sha256", bytes.Repeat([]byte{0xee}, 32), "/usr/sbin/cron"))
	refused(t, w.appraise(b), "ima-others")
	w, b = booted(t, bootTrust, imaEntry("sha256", bytes.Repeat([]byte{1}, 32), "/usr/sbin/cron"))
	refused(t, w.appraise(b), "agent-unseen")
	// The agent's own word is another one than the kernel's.
	w, b = booted(t, strings.Replace(bootTrust, goodAgent, bad, 1), agentEntry(bad))
	refused(t, w.appraise(b), "program")
}

// What boots, and how, is judged.
func TestBootPolicy(t *testing.T) {
	for code, change := range map[string][2]string{
		"secure-boot":        {"secure-boot: any", "secure-boot: \"on\""},
		"boot-application":   {"applications: any", "applications: []"},
		"boot-file":          {"files: any\n  initrds", "files: []\n  initrds"},
		"initrd":             {"initrds: any", "initrds: []"},
		"command-line":       {"loglevel=4", "loglevel=5"},
		"command-line-lacks": {"secure-boot: any", "secure-boot: any\n  contains: [lockdown=integrity]"},
		"command-line-holds": {"secure-boot: any", "secure-boot: any\n  forbids: [rw]"},
		"ima-policy":         {"ima:", "ima:\n  policies: [ima_policy=critical_data]"},
	} {
		text := strings.Replace(bootTrust, change[0], change[1], 1)
		if text == bootTrust {
			t.Fatalf("%q is not there", change[0])
		}
		w, b := booted(t, text)
		v := w.appraise(b)
		if v.Result == verify.Trusted || !v.Has(code) {
			t.Errorf("%s: %s", code, explain(v))
		}
	}
}

// Root extends the PCRs of the boot loader later, and adds to the boot log that
// the kernel was told to measure. Two command lines are none, and IMA's own
// first entry holds the PCRs to what they were.
func TestCommandLineAddedLater(t *testing.T) {
	w, _ := booted(t, bootTrust)
	text := "(hd0)/kernel ima_policy=tcb lockdown=integrity"
	d := tpm.HashAll(w.host.chip.banks, []byte(text))
	w.host.extend(8, d)
	le := binary.LittleEndian
	e := le.AppendUint32(nil, 8)
	e = le.AppendUint32(e, 0xd)
	l, err := bootlog.Parse(w.host.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	e = le.AppendUint32(e, uint32(len(l.Banks)))
	for _, b := range l.Banks {
		e = append(le.AppendUint16(e, uint16(b)), b.Hash([]byte(text))...)
	}
	data := "kernel_cmdline: " + text + "\x00"
	e = append(le.AppendUint32(e, uint32(len(data))), data...)
	w.host.bootLog = append(bytes.Clone(w.host.bootLog), e...)
	w.trust = w.policy(strings.Replace(bootTrust, "command-line: [", "contains: [lockdown=integrity]\n  command-line: [\"BOOT_IMAGE="+text+"\", ", 1))
	v := w.appraise(w.host.evidence(ask{nonce: nonce}))
	refused(t, v, "command-line")
	refused(t, v, "command-line-lacks")
	if v.Has("agent-measured") {
		t.Error(explain(v))
	}
}

// IMA measures all the while: its log may be ahead of the quote.
func TestLogsAheadOfTheQuote(t *testing.T) {
	w, _ := booted(t, bootTrust)
	b := w.host.evidence(ask{nonce: nonce, between: func() {
		w.host.ima = append(w.host.ima, imaEntry("sha256", bytes.Repeat([]byte{2}, 32), "/later")...)
		w.host.launch("default", "later")
	}})
	v := w.trusted(b)
	if v.Unproven == 0 || len(v.Containers) != 1 || v.Boot.IMA != 3 {
		t.Errorf("%+v, %+v", v, v.Boot)
	}
	x := w.host.resigned(b, func(e *evidence.Evidence) { e.IMA = w.host.ima })
	if v = w.trusted(x); v.Boot.IMA != 3 || v.Has("ima-others") {
		t.Error(explain(v))
	}
}

// A tenant's view holds nothing of IMA, whose log names every tenant's programs;
// one that brings a log which no quoted PCR proves is refused.
func TestTenantsViewLeavesIMAOut(t *testing.T) {
	w, _ := booted(t, strings.Replace(bootTrust, "agent:", "agent:\n  self-reported: accept", 1), agentEntry(goodAgent))
	view := func(more func(*evidence.Evidence)) verify.Input {
		b := w.host.evidence(ask{nonce: nonce, namespace: "default",
			quote: func(q *attested) {
				q.pcrs = slices.DeleteFunc(slices.Clone(q.pcrs), func(p int) bool { return p == imalog.PCR })
			},
			last: func(e *evidence.Evidence) { more(e) },
		})
		in := w.input(b)
		in.Expect.Namespace = "default"
		return in
	}
	v := verify.Appraise(view(func(e *evidence.Evidence) { e.IMA = nil }))
	if v.Result != verify.Trusted || v.Has("agent-measured") || !v.Has("self-reported") {
		t.Errorf("without IMA: %s", explain(v))
	}
	refused(t, verify.Appraise(view(func(*evidence.Evidence) {})), "ima-log")
	// The node's own view needs it.
	in := view(func(e *evidence.Evidence) { e.IMA, e.Log.Namespace = nil, "" })
	in.Expect.Namespace = ""
	refused(t, verify.Appraise(in), "selection")
}

// A replaced agent that the kernel measured under another name first, before it
// was moved to the agent's place, is one more file that ran: where policy accepts
// such files, nobody vouches for the agent. Data may be named by directory.
func TestAgentMovedIntoPlace(t *testing.T) {
	moved := imaEntry("sha256", bytes.Repeat([]byte{0xee}, 32), "/srv/evil")
	w, b := booted(t, bootTrust, agentEntry(goodAgent), moved)
	refused(t, w.appraise(b), "ima-others")

	w, b = booted(t, strings.Replace(bootTrust, "ima:", "ima:\n  others: accept", 1), agentEntry(goodAgent), moved)
	refused(t, w.appraise(b), "self-reported")
	if v := w.appraise(b); v.Has("agent-measured") {
		t.Error(explain(v))
	}

	data := strings.Replace(bootTrust, "ima:", "ima:\n  data: [/var/lib/]", 1)
	w, b = booted(t, data, agentEntry(goodAgent), imaEntry("sha256", bytes.Repeat([]byte{0xdd}, 32), "/var/lib/db"))
	if v := w.trusted(b); !v.Has("agent-measured") {
		t.Error(explain(v))
	}
	for _, name := range []string{"/srv/evil", "/var/lib/../../srv/evil", "/var/libevil"} {
		w, b = booted(t, data, agentEntry(goodAgent), imaEntry("sha256", bytes.Repeat([]byte{0xee}, 32), name))
		refused(t, w.appraise(b), "ima-others")
	}
}
