package ca

import (
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
)

// Whatever a host sends, a CA that knows nobody signs nothing, and does not fall
// over.
func FuzzMessages(f *testing.F) {
	c, err := Init(filepath.Join(f.TempDir(), "ca"), Options{Name: "fuzz"})
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range []enroll.Request{
		{Version: 1, Host: "web1", AK: tpm2.Marshal(tpm2.ECCEKTemplate), EK: tpm2.Marshal(tpm2.RSAEKTemplate), Certificate: c.cert.Raw, Chain: [][]byte{c.cert.Raw}},
		{Version: 1, Host: "web1", EK: tpm2.Marshal(tpm2.ECCSRKTemplate), Token: "x"},
	} {
		b, err := enroll.Encode(&m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	answer, err := enroll.Encode(&enroll.Answer{Version: 1, ID: make([]byte, idSize), Secret: []byte{1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, ask := range []func([]byte) ([]byte, error){c.Challenge, c.Admit, c.Issue} {
			if out, err := ask(b); err == nil {
				t.Errorf("answered with %s", out)
			}
		}
	})
}

// A certificate is read the same way twice, or not at all.
func FuzzCertificate(f *testing.F) {
	c, err := Init(filepath.Join(f.TempDir(), "ca"), Options{Name: "fuzz"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.cert.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		if a, err := certificate.Parse(der); err == nil {
			if err := certificate.CheckHost(a.Host); err != nil {
				t.Error(err)
			}
		}
		if _, err := certificate.Verify(der, certificate.Options{CA: c.cert.Raw, Kind: certificate.Platform, NoRevocation: true, Now: c.now()}); err == nil {
			t.Error("a certificate was made up")
		}
		if _, err := c.AddEKRoot(certificate.Pinned, der); err == nil {
			t.Error("a root for a class without roots")
		}
	})
}
