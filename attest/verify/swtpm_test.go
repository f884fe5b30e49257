package verify_test

import (
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// real makes evidence with a real TPM behind a socket: quote, log and key are
// those of the agent.
func real(t *testing.T, ca *authority) (b []byte, chip *swtpmtest.TPM) {
	t.Helper()
	chip = swtpmtest.Start(t)
	dev, err := tpm.Open(t.Context(), chip.Device())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	ak, err := key.Open(t.Context(), dev, filepath.Join(t.TempDir(), "ak"))
	if err != nil {
		t.Fatal(err)
	}
	props, err := dev.Properties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, chip: newChip()}
	m.makeChannel()
	m.log, err = eventlog.Open(t.Context(), eventlog.Config{Dir: t.TempDir(), Device: dev, PCR: 13, BootID: "b", Instance: "i", Watch: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.log.Close() })
	m.agentStart(goodAgent)
	m.launch("default", "web")
	m.launch("other", "db")

	e := &evidence.Evidence{
		Version: 1, Purpose: evidence.Offline, Nonces: evidence.Nonces{Verifier: nonce}, SPKI: evidence.Keys{Own: m.spki},
		AK:         evidence.AK{Public: ak.Public.Public()},
		Properties: evidence.Properties{Manufacturer: props.Manufacturer, Vendor: props.Vendor, Firmware: props.Firmware},
		Log:        evidence.Log{From: 1},
	}
	e.AK.Certificates = [][]byte{ca.certifyPublic("host-a", certificate.Software, ak.Public, now.Add(-time.Hour), now.Add(10*365*24*time.Hour))}
	binding, err := e.Binding()
	if err != nil {
		t.Fatal(err)
	}
	q := evidence.Qualification(binding)
	selector, ok := dev.(tpm.Selector)
	if !ok {
		t.Fatal("the device selects nothing")
	}
	e.Quote.Message, e.Quote.Signature, err = ak.Quote(t.Context(), selector.Select(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14), q[:])
	if err != nil {
		t.Fatal(err)
	}
	m.add("exec", "default", "web", raw(`{"exec":"a"}`)) // later than the quote
	e.Log.Lines = m.lines(1)
	return m.sign(e), chip
}

const softwareTrust = `
version: 1
ca:
  - {name: fleet, file: ca.pem, classes: [software]}
hosts: any
boot: {unmeasured: accept, command-line: any}
agent: {self-reported: accept, executables: {sealiftd: any}, policy-sets: any}
containers: {images: any, policies: any}
`

// A real TPM's quote and the real log are trusted as far as a software TPM goes.
func TestRealTPM(t *testing.T) {
	w := &world{t: t, ca: newAuthority(t, certificate.Platform)}
	b, _ := real(t, w.ca)
	w.trust = w.policy(softwareTrust)
	w.lists = [][]byte{w.ca.list(now.Add(-time.Minute), now.Add(time.Hour))}
	v := w.trusted(b)
	for _, name := range []string{verify.Identity, verify.Hardware} {
		if c := v.Claim(name); c.Status != verify.Warning {
			t.Errorf("%s of a software TPM is %s", name, c.Status)
		}
	}
	if v.Unproven != 1 || len(v.Containers) != 2 {
		t.Errorf("%+v", v)
	}
	w.trust = w.policy(strings.Replace(softwareTrust, "[software]", "[hardware, virtual]", 1))
	refused(t, w.appraise(b), "class")
}

// What tpm2-tools make of the export.
func TestExport(t *testing.T) {
	ca := newAuthority(t, certificate.Platform)
	b, chip := real(t, ca)
	dir := t.TempDir()
	if err := decoded(t, b).Export(dir); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	q, err := os.ReadFile(in("qualification"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(q string) error {
		return exec.Command("tpm2_checkquote", "-u", in("ak.pem"), "-m", in("quote.msg"), "-s", in("quote.sig"), "-q", q).Run()
	}
	swtpmtest.SkipMissing(t, check(strings.TrimSpace(string(q))))
	if err := check(strings.TrimSpace(string(q))); err != nil {
		t.Errorf("tpm2_checkquote: %v", err)
	}
	if check(strings.Repeat("00", 32)) == nil {
		t.Error("tpm2_checkquote takes any qualification")
	}
	// The log's end is ahead of the quote, where the TPM is too.
	replayed := swtpmtest.Tool(t, nil, "tpm2_eventlog", in("eventlog.tcg2"))
	read := swtpmtest.Tool(t, nil, "tpm2_pcrread", "-T", chip.TCTI(), "sha256:13")
	value := regexp.MustCompile(`13\s*: (0x[0-9A-Fa-f]{64})`)
	x, y := value.FindSubmatch(replayed), value.FindSubmatch(read)
	if x == nil || y == nil || !strings.EqualFold(string(x[1]), string(y[1])) {
		t.Errorf("tpm2_eventlog replays to %s, the TPM holds %s", x, y)
	}
}

// The script of docs/attestation.md, section "Without our code", agrees with
// sealift verify on good evidence, and on evidence with a byte changed.
func TestWithoutOurCode(t *testing.T) {
	ca := newAuthority(t, certificate.Platform)
	b, _ := real(t, ca)
	for name, c := range map[string]struct {
		change func(string) string
		ok     bool
	}{
		"good":     {func(s string) string { return s }, true},
		"a record": {func(s string) string { return strings.Replace(s, "busybox", "busyboy", 1) }, false},
		"a nonce": {func(s string) string {
			return strings.Replace(s, hex.EncodeToString(nonce), strings.Repeat("00", len(nonce)), 1)
		}, false},
	} {
		dir := t.TempDir()
		put := func(name string, b []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		put("evidence.json", []byte(c.change(string(b))))
		put("ca.pem", []byte(ca.pem()))
		real := time.Now()
		put("ca.crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: ca.list(now.Add(-time.Minute), real.Add(time.Hour))}))
		cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", docScript(t))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "NONCE="+hex.EncodeToString(nonce))
		out, err := cmd.CombinedOutput()
		swtpmtest.SkipMissing(t, err)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if c.ok {
			t.Logf("%s", out)
		}
	}
}

var docBlock = regexp.MustCompile("(?s)\n## Without our code\n.*?```sh\n(.*?)```")

func docScript(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	m := docBlock.FindSubmatch(page)
	if m == nil {
		t.Fatal("the page holds no script")
	}
	return string(m[1])
}
