package integration

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/evidence"
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
