package certificate_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
)

// One list is hidden behind another in a file: whoever goes past it takes what it
// revokes for good.
func TestNoListIsPassedOver(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl, err := certificate.AuthorityTemplate("test", certificate.Platform, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	list := func(n int64) []byte {
		l, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(n), ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, ca, k)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	text := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}) }
	one, two := list(1), list(2)
	both := slices.Concat(one, two)
	if _, err := x509.ParseRevocationList(both); err != nil {
		t.Fatalf("the naive reader finds out by itself: %v", err)
	}
	for name, data := range map[string][]byte{"DER": both, "PEM": slices.Concat(text(one), text(two)), "PEM, with a line between": slices.Concat(text(one), []byte("\n"), text(two))} {
		if !certificate.IsList(data) {
			t.Errorf("%s: not taken for lists", name)
		}
		if n := certificate.Newest(ca, certificate.Lists(data), now); n == nil || n.Int64() != 2 {
			t.Errorf("%s: the newest is %v", name, n)
		}
	}
	broken := bytes.Replace(text(two), []byte("M"), []byte("*"), 1)
	for name, data := range map[string][]byte{
		"nothing": nil, "cut off, DER": both[:len(both)-1], "DER and garbage": slices.Concat(one, []byte("more")),
		"cut off, PEM": slices.Concat(text(one), text(two)[:100]), "garbled first, PEM": slices.Concat(broken, text(one)),
		"garbled last, PEM": slices.Concat(text(one), broken), "a certificate beside it": slices.Concat(text(one), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	} {
		if certificate.IsList(data) {
			t.Errorf("%s: taken for lists", name)
		}
		file := filepath.Join(t.TempDir(), "crl")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var none *certificate.NotAListError
		if _, err := certificate.ReadLists(file); !errors.As(err, &none) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
