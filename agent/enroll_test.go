package agent

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/attest/ca"
	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// A host with an AK-CA and an owner: both certificates are kept, go into
// evidence, and are renewed under the name they have.
func TestEnroll(t *testing.T) {
	ctx := t.Context()
	d, err := tpm.Open(ctx, swtpmtest.Start(t).Device())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &prover{device: d, directory: filepath.Join(t.TempDir(), "attest")}
	s := &cliService{a: &Agent{prover: p}}
	enrol := func(c *ca.CA, host string) *nodev1.EnrollFinishResponse {
		t.Helper()
		begun, err := s.EnrollBegin(ctx, &nodev1.EnrollBeginRequest{Host: host, Kind: string(c.Kind())})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.PinEK([32]byte(begun.GetEndorsementKey()), ""); err != nil {
			t.Fatal(err)
		}
		challenge, err := c.Challenge(begun.GetRequest())
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.EnrollAnswer(ctx, &nodev1.EnrollAnswerRequest{Challenge: challenge, Host: begun.GetHost()})
		if err != nil {
			t.Fatal(err)
		}
		result, err := c.Issue(answer.GetAnswer())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.EnrollFinish(ctx, &nodev1.EnrollFinishRequest{Result: result, AuthorityFingerprint: strings.Repeat("00", 32)}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("another CA's fingerprint: %v", err)
		}
		r, err := s.EnrollFinish(ctx, &nodev1.EnrollFinishRequest{Result: result, AuthorityFingerprint: certificate.Fingerprint(c.Certificate())})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if _, err := s.EnrollBegin(ctx, &nodev1.EnrollBeginRequest{}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("renewal of nothing: %v", err)
	}
	made := func(kind certificate.Kind) *ca.CA {
		t.Helper()
		c, err := ca.Init(filepath.Join(t.TempDir(), "ca"), ca.Options{Name: "CA of " + string(kind), Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	platform, owner := made(certificate.Platform), made(certificate.Owner)
	first := enrol(platform, "web1")
	if first.GetHost() != "web1" || first.GetClass() != "software" || first.GetKind() != "platform" || first.GetAuthority() != "CA of platform" {
		t.Errorf("%v", first)
	}
	if r := enrol(owner, "mine"); r.GetKind() != "owner" || r.GetHost() != "mine" {
		t.Errorf("%v", r)
	}
	if again := enrol(platform, ""); again.GetHost() != "web1" || again.GetSerial() == first.GetSerial() {
		t.Errorf("renewed: %v", again)
	}
	ak, err := p.attestationKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	of, by, err := certificates(p.directory, ak.Public)
	if err != nil || len(of) != 2 || len(by) != 2 || !bytes.Equal(of[1], platform.Certificate().Raw) || !bytes.Equal(by[1], owner.Certificate().Raw) {
		t.Errorf("%d and %d certificates, %v", len(of), len(by), err)
	}
	if len(of) > evidence.MaxCertificates {
		t.Error("evidence does not hold that many certificates")
	}
}
