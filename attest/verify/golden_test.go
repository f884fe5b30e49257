package verify_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/eventlog"
)

// testdata/golden holds evidence as version 1 writes it, for ever: a good one,
// one of a container that broke its policy, and that host's log rolled back to
// before it did. The command's tests read them too.
var update = flag.Bool("update", false, "write testdata/golden anew")

const golden = "testdata/golden"

func goldenFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(golden, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goldenInput is what a verifier of the golden evidence puts together.
func goldenInput(t testing.TB, name string) verify.Input {
	t.Helper()
	p, err := trust.Load(filepath.Join(golden, "trust.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return verify.Input{
		Evidence: goldenFile(t, name), Trust: p, Now: now, Revocation: [][]byte{goldenFile(t, "ca.crl")},
		Expect: verify.Expect{Binding: evidence.Binding{VerifierNonce: nonce}},
	}
}

func TestGolden(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	if v := verify.Appraise(goldenInput(t, "good.json")); v.Result != verify.Trusted || v.Next == nil {
		t.Error(explain(v))
	}
	refused(t, verify.Appraise(goldenInput(t, "violation.json")), "violation")
	refused(t, verify.Appraise(goldenInput(t, "rolledback.json")), "replay")
	in := goldenInput(t, "tenant.json")
	in.Expect.Namespace = "default"
	if v := verify.Appraise(in); v.Result != verify.Trusted || v.Closed == 0 || v.Tenants == 0 {
		t.Error(explain(v))
	}
}

func writeGolden(t *testing.T) {
	t.Helper()
	w := newWorld(t)
	if err := os.MkdirAll(golden, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(golden, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("ca.pem", []byte(w.ca.pem()))
	put("ca.crl", w.ca.list(now.Add(-time.Minute), now.Add(1000*time.Hour)))
	put("trust.yaml", []byte(goldenTrust))
	put("nonce", []byte(hex.EncodeToString(nonce)))
	w.host.launch("default", "web")
	w.host.launch("other", "db")
	put("good.json", w.host.evidence(ask{nonce: nonce}))
	put("tenant.json", w.host.evidence(ask{nonce: nonce, namespace: "default"}))
	before := w.host.lines(1)
	w.host.add("violation", "default", "web", raw(`{"rule":"exec"}`))
	put("violation.json", w.host.evidence(ask{nonce: nonce}))
	put("rolledback.json", w.host.evidence(ask{nonce: nonce, last: func(e *evidence.Evidence) { e.Log.Lines = before }}))
}

const goldenTrust = `# What the golden evidence is judged by.` + goodTrust

// Removing a part, or a record, never makes a verdict better.
func TestRemovingNeverImproves(t *testing.T) {
	for _, name := range []string{"good.json", "violation.json"} {
		in := goldenInput(t, name)
		with := verify.Appraise(in)
		worse := func(what string, in verify.Input) {
			v := verify.Appraise(in)
			if v.Result == verify.Trusted {
				t.Errorf("%s without %s: trusted", name, what)
			}
			for i, c := range v.Claims {
				if better(c.Status, with.Claims[i].Status) {
					t.Errorf("%s without %s: %s goes from %s to %s", name, what, c.Name, with.Claims[i].Status, c.Status)
				}
			}
		}
		noList := in
		noList.Revocation = nil
		worse("revocation list", noList)
		unsigned := func(what string, change func(*evidence.Evidence)) {
			e := decoded(t, in.Evidence)
			change(e)
			b, err := e.Encode()
			if err != nil {
				return // not even evidence any more
			}
			x := in
			x.Evidence = b
			worse(what, x)
		}
		for what, change := range map[string]func(*evidence.Evidence){
			"certificates": func(e *evidence.Evidence) { e.AK.Certificates = nil }, "key": func(e *evidence.Evidence) { e.AK.Public = nil },
			"quote": func(e *evidence.Evidence) { e.Quote.Message = nil }, "its signature": func(e *evidence.Evidence) { e.Quote.Signature = nil },
			"channel key": func(e *evidence.Evidence) { e.SPKI.Own = nil }, "nonce": func(e *evidence.Evidence) { e.Nonces.Verifier = nil },
			"signature": func(e *evidence.Evidence) { e.Signature = nil }, "properties": func(e *evidence.Evidence) { e.Properties = evidence.Properties{} },
			"log": func(e *evidence.Evidence) { e.Log.Lines = nil },
		} {
			unsigned(what, change)
		}
		for i := range decoded(t, in.Evidence).Log.Lines {
			unsigned("a line", func(e *evidence.Evidence) { e.Log.Lines = append(e.Log.Lines[:i:i], e.Log.Lines[i+1:]...) })
		}
		for i := range bytes.Split(goldenFile(t, "trust.yaml"), []byte("\n")) {
			lines := bytes.Split(goldenFile(t, "trust.yaml"), []byte("\n"))
			text := bytes.Join(append(lines[:i:i], lines[i+1:]...), []byte("\n"))
			p, err := trust.Parse("trust.yaml", text, func(string) ([]byte, error) { return goldenFile(t, "ca.pem"), nil })
			if err != nil {
				continue // a policy that is refused trusts nothing
			}
			x := in
			x.Trust = p
			for k, c := range verify.Appraise(x).Claims {
				if better(c.Status, with.Claims[k].Status) {
					t.Errorf("%s without line %q of the policy: %s goes from %s to %s", name, lines[i], c.Name, with.Claims[k].Status, c.Status)
				}
			}
		}
	}
}

// The same by whoever has the agent's channel key, and so can sign what is left.
func TestRemovingAndSigningNeverImproves(t *testing.T) {
	w := newWorld(t)
	w.host.bootLog, w.host.ima = bootedLogs(t, w.host)
	w.host.launch("default", "web")
	w.host.add("violation", "default", "web", raw(`{"rule":"exec"}`))
	good := w.host.evidence(ask{nonce: nonce})
	with := w.appraise(good)
	if !with.Has("violation") || with.Boot == nil || !with.Boot.Measured || with.Boot.IMA == 0 {
		t.Fatal(explain(with))
	}
	for what, change := range map[string]func(*evidence.Evidence){
		"boot log": func(e *evidence.Evidence) { e.Boot = nil }, "IMA log": func(e *evidence.Evidence) { e.IMA = nil },
		"both":             func(e *evidence.Evidence) { e.Boot, e.IMA = nil, nil },
		"certificates":     func(e *evidence.Evidence) { e.AK.Certificates = nil },
		"the last records": func(e *evidence.Evidence) { e.Log.Lines = e.Log.Lines[:len(e.Log.Lines)-2] },
		"an event of boot": func(e *evidence.Evidence) { e.Boot = e.Boot[:len(e.Boot)-0x100] },
		"nonce":            func(e *evidence.Evidence) { e.Nonces.Verifier = nil },
		"the openings": func(e *evidence.Evidence) {
			for i, line := range e.Log.Lines {
				l, err := eventlog.DecodeLine(line)
				if err != nil {
					t.Fatal(err)
				}
				if l.Item == nil || i == 0 {
					continue
				}
				c, err := l.Item.Close()
				if err != nil {
					t.Fatal(err)
				}
				if e.Log.Lines[i], err = (&eventlog.Line{Closed: c}).Encode(); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		v := w.appraise(w.host.resigned(good, change))
		if v.Result == verify.Trusted {
			t.Errorf("without %s: trusted", what)
		}
		for i, c := range v.Claims {
			if better(c.Status, with.Claims[i].Status) {
				t.Errorf("without %s: %s goes from %s to %s: %s", what, c.Name, with.Claims[i].Status, c.Status, explain(v))
			}
		}
	}
}

// better says whether a claim's status came to speak more for it. None is not
// better than contraindicated: a claim that nothing is known of is not trusted.
func better(a, b verify.Status) bool {
	rank := map[verify.Status]int{verify.Contraindicated: 0, verify.None: 0, verify.Warning: 1, verify.Affirming: 2}
	return rank[a] > rank[b]
}
