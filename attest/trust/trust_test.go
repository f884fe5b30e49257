package trust_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/internal/strictyaml"
)

func authority(t testing.TB) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := certificate.AuthorityTemplate("a CA", certificate.Platform, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parse(text string, ca []byte) (*trust.Policy, error) {
	return trust.Parse("trust.yaml", []byte(text), func(name string) ([]byte, error) {
		if ca == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return ca, nil
	})
}

// The example is what an empty policy means, but for whom it names.
func TestExampleIsTheStrictest(t *testing.T) {
	p, err := parse(trust.Example, authority(t))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := parse("version: 1\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(empty, trust.Strictest()) {
		t.Error("an empty file is not the strictest policy")
	}
	if got, want := without(p.Print()), without(empty.Print()); got != want {
		t.Errorf("the example means\n%s\nan empty policy\n%s", got, want)
	}
	for _, text := range []string{"accept", "any"} {
		if strings.Contains(empty.Print(), text) {
			t.Errorf("an empty policy says %s somewhere:\n%s", text, empty.Print())
		}
	}
}

// without leaves out CAs and hosts.
func without(text string) string {
	_, rest, _ := strings.Cut(text, "\nbank:")
	return rest
}

func TestPrintIsReadAgain(t *testing.T) {
	ca := authority(t)
	for _, text := range []string{
		trust.Example,
		"version: 1",
		`
version: 1
ca:
  - {name: "a: b", classes: [software, virtual], revocation: none, file: x}
owner:
  - {name: us, file: x}
hosts: any
bank: sha384
require: []
freshness: {without-nonce: accept, max-age: 24h, clock-skew: 2m}
log: {states: [foreign], acknowledged: accept, forgotten: accept, container-view: accept, unknown-records: accept}
boot: {unmeasured: accept, secure-boot: any, applications: any, command-line: ["quiet \"x\" # y"], contains: [ima_policy=tcb], forbids: ["any"]}
agent: {self-reported: accept, path: /x, executables: {sealiftd: any, runc: []}, policy-sets: any}
ima: {policies: [], others: accept}
containers: {images: any, bindings: [], would-refuse: accept}
`,
	} {
		p, err := parse(text, ca)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(p.Print(), nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, p.Print())
		}
		if p.Print() != again.Print() {
			t.Errorf("printed:\n%s\nread and printed again:\n%s", p.Print(), again.Print())
		}
	}
}

// Everything wrong is named with its line, and a hint where there is one.
func TestErrors(t *testing.T) {
	ca := authority(t)
	for _, c := range []struct{ text, wanted string }{
		{"", "trust.yaml: is empty"},
		{"version: 1\nversion: 1\n", "trust.yaml:2: version: given twice"},
		{"version: 2\n", `trust.yaml:1: version: version "2" is not known`},
		{"hosts: any\n", "trust.yaml:1: version: is missing"},
		{"version: 1\nHosts: any\n", "trust.yaml:2: Hosts: unknown key\nhint: fields are case-sensitive: did you mean hosts?"},
		{"version: 1\nfreshness:\n  without-nonse: accept\n", "trust.yaml:3: freshness.without-nonse: unknown key\nhint: did you mean without-nonce?"},
		{"version: 1\nfreshness:\n  without-nonce: yes\n", `trust.yaml:3: freshness.without-nonce: unknown value "yes"`},
		{"version: 1\nfreshness:\n  without-nonce: true\n", `trust.yaml:3: freshness.without-nonce: unknown value "true"`},
		{"version: 1\nfreshness:\n  max-age: 5\n", "trust.yaml:3: freshness.max-age: wants a string"},
		{"version: 1\nfreshness:\n  max-age: -5m\n", "is not a time span"},
		{"version: 1\nhosts: all\n", "trust.yaml:2: hosts: wants a list"},
		{"version: 1\nhosts: ['']\n", "trust.yaml:2: hosts[0]: is empty"},
		{"version: 1\nhosts: [" + strings.Repeat("x", 64<<10+1) + "]\n", "trust.yaml:2: hosts[0]: is 65537 bytes long, more than 65536"},
		{"version: 1\nnetwork: deny\n", "trust.yaml:2: network: unknown key\nhint: known here: version"},
		{"version: 1\nhosts:\n", "trust.yaml:2: hosts: wants a list\nhint: an empty value says nothing"},
		{"version: 1\ncontainers:\n  images: [sha256:AB]\n", "trust.yaml:3: containers.images[0]: \"sha256:AB\" is not a digest"},
		{"version: 1\nca: []\n", "trust.yaml:2: ca: is an empty list"},
		{"version: 1\nca:\n  - file: x\n", "has no name"},
		{"version: 1\nca:\n  - name: a\n", "has no certificate"},
		{"version: 1\nca:\n  - {name: a, file: x}\n  - {name: a, file: x}\n", `the name "a" is given twice`},
		{"version: 1\nca:\n  - {name: a, file: x}\n  - {name: b, file: x, revocation: none}\n", `the CA "b" has a certificate of "a" too`},
		{"version: 1\nca:\n  - {name: a, pem: x}\n", "holds no CA certificate"},
		{"version: 1\nca:\n  - {name: a, file: x, classes: [hard]}\n", `unknown value "hard"`},
		{"version: 1\nowner:\n  - {name: a, file: x, classes: [hardware]}\n", "owner[0].classes: unknown key"},
		{"version: 1\nhosts: &a [x]\n", "anchors"},
		{"version: 1\nhosts: !!seq [x]\n", "tags are not used"},
		{"version: 1\n---\nversion: 1\n", "a second YAML document"},
		{"version: 1\n hosts: [\n", "trust.yaml:2: not YAML"},
		{"version: 1\nrequire: [identity]\n", "one of instance-identity, hardware"},
	} {
		_, err := parse(c.text, ca)
		var es strictyaml.Errors
		if !errors.As(err, &es) || !strings.Contains(err.Error(), c.wanted) {
			t.Errorf("%q:\n%v\nwanted: %s", c.text, err, c.wanted)
		}
	}
	if _, err := parse("version: 1\nca:\n  - {name: a, file: gone.pem}\n", nil); err == nil || !strings.Contains(err.Error(), "gone.pem") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	ca := authority(f)
	f.Add(trust.Example)
	f.Add("version: 1\nhosts: any\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parse(text, ca)
		if err != nil {
			return
		}
		again, err := parse(p.Print(), nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, p.Print())
		}
		if p.Print() != again.Print() {
			t.Errorf("printed:\n%s\nread and printed again:\n%s", p.Print(), again.Print())
		}
	})
}

// docs/attestation.md shows the example as it is.
func TestExampleIsInTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```yaml\n"+trust.Example+"```") {
		t.Error("docs/attestation.md, section Trust policy, shows another example than attest/trust/example.yaml")
	}
}
