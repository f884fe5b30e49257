package integration

import (
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/node"
)

// A host enrols over the network once somebody has admitted it and somebody has
// vouched for its TPM, and not a step earlier; its evidence bears the
// certificate; an owner's comes by hand; what is revoked needs a person's word.
func TestEnroll(t *testing.T) {
	n := newNode(t, node.Options{Name: "enroll"})
	s := subject{n, byName, t}
	s.sh(`cd /srv && sealift ca init --name 'Lab CA' ca && sealift ca init --owner --name 'Lab owner' owner
		(setsid sealift ca serve --dir ca --listen 127.0.0.1:7443 >serve.log 2>&1 & echo $! >serve.pid)`)
	defer s.sh("kill $(cat /srv/serve.pid)")
	s.eventually("CA is served", "grep -q ^serving /srv/serve.log")
	fingerprint := s.sh("sealift ca show --dir /srv/ca --json | jq -r .fingerprint")
	ask := func(flags string) (string, error) {
		return n.Shell(t.Context(), "sealift enroll --ca 127.0.0.1:7443 --ca-fingerprint "+fingerprint+" "+flags+" 2>&1")
	}
	refused := func(flags, why string) {
		t.Helper()
		out, err := ask(flags)
		if err == nil || !strings.Contains(out+err.Error(), why) {
			t.Errorf("enroll %s: %v, %q; want %q", flags, err, out, why)
		}
	}
	refused("--renew", "no platform certificate to renew")
	refused("--host web1", "is not known")
	token := s.sh("sealift ca token --dir /srv/ca web1")
	refused("--host web1 --token "+token, "is not known")
	s.sh("sealift enroll request --host web1 >/srv/request.json && sealift ca pin-ek --dir /srv/ca --host web1 /srv/request.json")
	refused("--host web2", "pinned as web1")
	if _, err := n.Shell(t.Context(), "sealift enroll --host web1 --ca 127.0.0.1:7443 --ca-fingerprint "+strings.Repeat("00", 32)); err == nil || !strings.Contains(err.Error(), "another CA answers") {
		t.Errorf("a CA with another fingerprint: %v", err)
	}
	if out, err := ask("--host web1 --token " + token); err != nil || !strings.Contains(out, "web1 is certified by Lab CA (platform) as software") {
		t.Fatalf("%q, %v", out, err)
	}
	if out, err := ask("--renew"); err != nil || !strings.Contains(out, "web1 is certified") {
		t.Errorf("%q, %v", out, err)
	}
	s.sh(`cd /srv && sealift ca pin-ek --dir owner request.json
		sealift enroll request --host web1 >r.json && sealift ca challenge --dir owner r.json >c.json
		sealift enroll answer c.json >a.json && sealift ca issue --dir owner a.json >o.json && sealift enroll store o.json`)
	e := attested(s, "")
	if len(e.AK.Certificates) == 0 || len(e.AK.Owner) == 0 {
		t.Error("evidence bears no certificates")
	}
	s.sh(`cd /srv && sealift attest | jq -r '.ak.certificates[0]' | python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read().strip()))' >leaf.der && sealift ca crl --pem --dir ca >ca.crl
		openssl verify -x509_strict -crl_check -CRLfile ca.crl -CAfile ca/ca.pem leaf.der`)
	s.sh("sealift ca revoke --dir /srv/ca web1")
	s.sh("sealift ca crl --ca 127.0.0.1:7443 --ca-fingerprint %s | openssl crl -inform der -noout -text | grep 'Serial Number'", fingerprint)
	refused("--renew", "was revoked")
	if out, err := ask("--host web1 --token " + s.sh("sealift ca token --dir /srv/ca web1")); err != nil {
		t.Errorf("%q, %v", out, err)
	}
	for name, mode := range map[string]string{".": "700", "ak.seed": "600", "platform.certificate": "600", "owner.certificate": "600"} {
		if got := s.sh("stat -c %%a /var/lib/sealift/attest/%s", name); got != mode {
			t.Errorf("%s has mode %s", name, got)
		}
	}
}
