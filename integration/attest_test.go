package integration

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

// attested is the evidence that one command line makes, decoded.
func attested(s subject, flags string) *evidence.Evidence {
	s.t.Helper()
	e, err := evidence.Decode([]byte(s.sh("sealift attest %s", flags)))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := e.VerifySignature(); err != nil {
		s.t.Fatal(err)
	}
	return e
}

// Evidence holds the verifier's nonce, and shows a tenant its own records and of
// the others only how many there are.
func TestAttest(t *testing.T) {
	n := newNode(t, node.Options{Name: "attest"})
	s := subject{n, byName, t}
	tiny, err := made.Image(t.Context(), "tiny", image.Tiny)
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"red", "blue"} {
		if err := n.ImportTo(t.Context(), ns, tiny); err != nil {
			t.Fatal(err)
		}
		s.sh("ctr -n %s run --rm --runtime %s %s %sbox true", ns, node.Sealift, image.TinyName, ns)
	}
	s.sh("ctr -n red run --rm --runtime %s %s other true", node.Sealift, image.TinyName)

	whole := attested(s, "--nonce 00ff")
	if !bytes.Equal(whole.Nonces.Verifier, []byte{0, 0xff}) || len(whole.Nonces.Own) != 32 || whole.Purpose != evidence.Offline {
		t.Errorf("nonces %+v, purpose %s", whole.Nonces, whole.Purpose)
	}
	all := string(bytes.Join(whole.Log.Lines, nil))
	for _, word := range []string{"redbox", "bluebox", "other"} {
		if !strings.Contains(all, word) {
			t.Errorf("the whole log does not name %s", word)
		}
	}
	red := string(bytes.Join(attested(s, "--namespace red").Log.Lines, nil))
	if !strings.Contains(red, "redbox") || !strings.Contains(red, `"agent-start"`) || !strings.Contains(red, `"closed"`) || strings.Contains(red, "blue") {
		t.Errorf("red's view:\n%s", red)
	}
	one := string(bytes.Join(attested(s, "--container red/redbox").Log.Lines, nil))
	if !strings.Contains(one, "redbox") || strings.Contains(one, `"other"`) || strings.Contains(one, "blue") {
		t.Errorf("redbox's view:\n%s", one)
	}
	for _, wrong := range []string{"--nonce xyz", "--container web", "--container red/", "--namespace red --container blue/web", "--from 7", "--nonce " + strings.Repeat("00", 65)} {
		if out, err := n.Shell(t.Context(), "sealift attest "+wrong+" 2>&1 >/dev/null"); err == nil || out == "" {
			t.Errorf("sealift attest %s: %v, %q", wrong, err, out)
		}
	}
}

// judged runs the verifier as nobody without a network, and returns what it says
// and whether that is yes.
func judged(s subject, flags string) (string, bool) {
	s.t.Helper()
	out, err := s.Shell(s.t.Context(), "cd /srv/trust; unshare -n setpriv --reuid=65534 --regid=65534 --clear-groups sealift verify --crl ca.crl "+flags+" 2>&1")
	var exit *host.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if exit != nil {
		out = exit.Stdout
	}
	return out, err == nil
}

// newAttested is a node that a CA of its own has certified, with a container run.
func newAttested(t *testing.T) subject {
	t.Helper()
	n := newNode(t, node.Options{Name: "attested"})
	s := subject{n, byName, t}
	tiny, err := made.Image(t.Context(), "tiny", image.Tiny)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func() error{
		func() error { return n.MakeCA(t.Context()) },
		func() error { return n.Enroll(t.Context(), n, "host") },
		func() error { return n.WriteTrust(t.Context(), n, node.TrustDir, node.Trust) },
		func() error { return n.ImportTo(t.Context(), "red", tiny) },
		func() error { return n.ImportTo(t.Context(), "blue", tiny) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	for _, ns := range []string{"red", "blue"} {
		s.sh("ctr -n %s run --rm --runtime %s %s %sbox true", ns, node.Sealift, image.TinyName, ns)
	}
	return s
}

// A verifier elsewhere says yes to a good host, no where anything is missing, and
// yes to a tenant's own view.
func TestVerify(t *testing.T) {
	s := newAttested(t)
	s.sh("cd /srv/trust; sealift attest --nonce abcd -o e.json; sealift attest --nonce abcd --namespace red -o red.json; sealift attest --nonce abcd --container red/redbox -o box.json; echo 'version: 1' >empty.yaml")
	for flags, want := range map[string]bool{
		"--nonce abcd e.json":                                       true,
		"--nonce abcd --host host e.json":                           true,
		"--nonce abcd --host other e.json":                          false,
		"--nonce abce e.json":                                       false,
		"e.json":                                                    false,
		"--nonce abcd --namespace red red.json":                     true,
		"--nonce abcd --namespace blue red.json":                    false,
		"--nonce abcd red.json":                                     false,
		"--nonce abcd --container red/redbox box.json":              true,
		"--nonce abcd --now 2036-01-01T00:00:00Z e.json":            false,
		"--nonce abcd --trust /etc/sealift/config.toml e.json":      false,
		"--nonce abcd trust.yaml":                                   false,
		"--nonce abcd --trust empty.yaml e.json":                    false,
		"--nonce abcd --state /tmp/none-exists/state e.json":        false,
		"--nonce abcd --json e.json | jq -e '.result==\"trusted\"'": true,
	} {
		if out, ok := judged(s, flags); ok != want {
			t.Errorf("sealift verify %s: %v, want %v:\n%s", flags, ok, want, out)
		}
	}
	if out, _ := judged(s, "--nonce abcd --namespace red --json red.json"); strings.Contains(out, "blue") {
		t.Errorf("red's verdict speaks of blue:\n%s", out)
	}
	// Without the list nothing is said of revocation; a revoked key is refused.
	if out, err := s.Shell(t.Context(), "cd /srv/trust; sealift verify --nonce abcd e.json"); err == nil {
		t.Errorf("without a revocation list:\n%s", out)
	}
	s.sh("sealift ca revoke --dir %s host >/dev/null; sealift ca crl --pem --dir %s >/srv/trust/ca.crl", node.CADir, node.CADir)
	if out, ok := judged(s, "--nonce abcd e.json"); ok || !strings.Contains(out, "revoked") {
		t.Errorf("a revoked key:\n%s", out)
	}
}

// Nothing before Sealift measured it on a test host: an agent that was replaced
// and extends what the good one would cannot be told apart, and the verdict says
// that it rests on the agent's own word. (In a machine with IMA it is told apart:
// TestVMAttestation.)
func TestReplacedAgentIsSelfReported(t *testing.T) {
	s := newAttested(t)
	s.sh(`cp /usr/local/bin/sealiftd /srv/goodagent
LC_ALL=C sed 's#/proc/self/exe#/srv/goodagent#g' /usr/local/bin/sealiftd >/srv/evil; chmod 755 /srv/evil; ! cmp -s /srv/evil /srv/goodagent`)
	good := strings.Fields(s.sh("sha256sum /srv/goodagent"))[0]
	policy := strings.Replace(node.Trust, "sealiftd: any", `sealiftd: ["sha256:`+good+`"]`, 1)
	if err := s.WriteTrust(t.Context(), s.Node, node.TrustDir, policy); err != nil {
		t.Fatal(err)
	}
	if err := s.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	s.sh("mv /srv/evil /usr/local/bin/sealiftd")
	if err := s.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.sh("cd /srv/trust; sealift attest --nonce abcd -o e.json")
	out, ok := judged(s, "--nonce abcd e.json")
	if !ok || !strings.Contains(out, "only Sealift says") {
		t.Errorf("where the policy takes the agent's word: %v\n%s", ok, out)
	}
	if err := s.WriteTrust(t.Context(), s.Node, node.TrustDir, strings.Replace(policy, "self-reported: accept", "self-reported: reject", 1)); err != nil {
		t.Fatal(err)
	}
	if out, ok := judged(s, "--nonce abcd e.json"); ok || !strings.Contains(out, "only Sealift says") {
		t.Errorf("where it does not: %v\n%s", ok, out)
	}
}
