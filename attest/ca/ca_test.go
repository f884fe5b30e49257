package ca

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// newCA makes a CA whose clock the test can set.
func newCA(t testing.TB, o Options) *CA {
	t.Helper()
	if o.Name == "" {
		o.Name = "Test CA"
	}
	c, err := Init(filepath.Join(t.TempDir(), "ca"), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *CA) at(t time.Time) { c.now = func() time.Time { return t } }

func device(t testing.TB, x *swtpmtest.TPM) tpm.Device {
	t.Helper()
	d, err := tpm.Open(t.Context(), x.Device())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// host is a host with a TPM of its own.
func host(t testing.TB, x *swtpmtest.TPM, name, dir string) *enroll.Host {
	t.Helper()
	d := device(t, x)
	ak, err := key.Open(t.Context(), d, dir)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := key.EndorsementKey(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return &enroll.Host{Device: d, AK: ak, EK: ek, Name: name}
}

// pinHost admits the host's endorsement key.
func pinHost(t testing.TB, c *CA, h *enroll.Host) {
	t.Helper()
	p, err := key.ParsePublic(h.EK.Public)
	if err != nil {
		t.Fatal(err)
	}
	f, err := certificate.EKFingerprint(p.Key())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PinEK(f, ""); err != nil {
		t.Fatal(err)
	}
}

// must is for steps that are no subject of the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// enrolled goes through all four messages.
func enrolled(t testing.TB, c *CA, h *enroll.Host) *enroll.Certificate {
	t.Helper()
	challenge := must(c.Challenge(must(h.Request(t.Context(), ""))(t)))(t)
	result := must(c.Issue(must(h.Answer(t.Context(), challenge))(t)))(t)
	return must(enroll.Check(result, h.AK.Public, certificate.Fingerprint(c.cert)))(t)
}

// refused wants a Refusal with the code.
func refused(t testing.TB, err error, code, about string) {
	t.Helper()
	var no *Refusal
	if !errors.As(err, &no) || no.Code != code || !strings.Contains(no.Error(), about) {
		t.Errorf("got %v, want a refusal %q about %q", err, code, about)
	}
}

func verify(c *CA, der []byte, lists ...[]byte) error {
	_, err := certificate.Verify(der, certificate.Options{CA: c.cert.Raw, Kind: c.kind, Lists: lists, Now: c.now()})
	return err
}

// verifyCode wants a certificate.Error with the code.
func verifyCode(t testing.TB, err error, code string) {
	t.Helper()
	var e *certificate.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

// A directory is made once, privately, and a file of another's is not taken.
func TestInit(t *testing.T) {
	c := newCA(t, Options{})
	if _, err := Init(c.dir, Options{Name: "again"}); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("overwrote a CA: %v", err)
	}
	err := filepath.WalkDir(c.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, kind := range []string{"ecdsa-p256", "ecdsa-p384", "ed25519"} {
		newCA(t, Options{KeyType: kind})
	}
	if _, err := Init(filepath.Join(t.TempDir(), "x"), Options{Name: "x", KeyType: "rsa-512"}); err == nil {
		t.Error("made a key of unknown type")
	}
	other := newCA(t, Options{})
	if err := os.WriteFile(c.path(keyFile), must(os.ReadFile(other.path(keyFile)))(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c.dir); err == nil {
		t.Error("opened a CA with another's key")
	}
}

// The whole way, for a TPM nobody vouches for: it is refused, then pinned; and
// what comes out is what openssl, too, calls a certificate of this CA.
func TestEnrolPinned(t *testing.T) {
	c := newCA(t, Options{})
	h := host(t, swtpmtest.Start(t), "web1.example", t.TempDir())
	request := must(h.Request(t.Context(), ""))(t)
	_, err := c.Challenge(request)
	refused(t, err, "ek", "hint: sealift ca add-ek-root")
	pinHost(t, c, h)
	got := enrolled(t, c, h)
	s := got.Statement
	if s.Host != "web1.example" || s.Class != certificate.Software || s.Kind != certificate.Platform || !bytes.Equal(s.Name, h.AK.Name()) {
		t.Errorf("%+v", s)
	}
	if err := verify(c, got.Result.Certificate, got.Revocation); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	if err := got.Store(dir); err != nil {
		t.Fatal(err)
	}
	if back, err := enroll.Load(dir, certificate.Platform); err != nil || !bytes.Equal(back.Result.Certificate, got.Result.Certificate) {
		t.Errorf("%v, %v", back, err)
	}
	if none, err := enroll.Load(dir, certificate.Owner); none != nil || err != nil {
		t.Errorf("%v, %v", none, err)
	}
	// Renewal proves all again, and gives another certificate.
	if again := enrolled(t, c, h); bytes.Equal(again.Result.Certificate, got.Result.Certificate) {
		t.Error("renewal gave the same certificate")
	}
	leaf, crl := filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "crl.pem")
	writePEM(t, leaf, "CERTIFICATE", got.Result.Certificate)
	writePEM(t, crl, "X509 CRL", got.Revocation)
	openssl := func() bool {
		return swtpmtest.Succeeds(t, "openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", crl, "-CAfile", c.path(certFile), leaf)
	}
	if !openssl() {
		t.Error("openssl does not verify the chain")
	}
	must(c.Revoke("web1.example", "test"))(t)
	list := must(c.List())(t)
	writePEM(t, crl, "X509 CRL", list)
	if openssl() {
		t.Error("openssl verifies a revoked certificate")
	}
	verifyCode(t, verify(c, got.Result.Certificate, list), certificate.Revoked)
	// Whoever holds the old list and the new one knows as well.
	verifyCode(t, verify(c, got.Result.Certificate, got.Revocation, list), certificate.Revoked)
	if text := string(swtpmtest.Tool(t, nil, "openssl", "crl", "-in", crl, "-noout", "-text", "-CAfile", c.path(certFile))); !strings.Contains(text, "Version 2") || !strings.Contains(text, "CRL Number") || !strings.Contains(text, "Next Update") {
		t.Errorf("openssl reads the list as %s", text)
	}
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A TPM with a maker's certificate: its class is the store's that holds the
// maker's root, and an emulator is software, whatever hardware store it is in.
func TestEnrolByMaker(t *testing.T) {
	maker := t.TempDir()
	x := swtpmtest.Manufacture(t, maker)
	pems := append(must(os.ReadFile(filepath.Join(maker, swtpmtest.RootFile)))(t), must(os.ReadFile(filepath.Join(maker, swtpmtest.IssuerFile)))(t)...)
	h := host(t, x, "vm1", t.TempDir())
	for store, want := range map[certificate.Class]certificate.Class{
		certificate.Virtual:  certificate.Virtual,
		certificate.Hardware: certificate.Software,
		certificate.Software: certificate.Software,
	} {
		c := newCA(t, Options{})
		must(c.AddEKRoot(store, pems))(t)
		if got := enrolled(t, c, h).Statement.Class; got != want {
			t.Errorf("root in store %s gives class %s, want %s", store, got, want)
		}
	}
	c := newCA(t, Options{})
	if _, err := c.AddEKRoot(certificate.Pinned, pems); err == nil {
		t.Error("took a root for a class that has none")
	}
	if _, err := c.AddEKRoot(certificate.Hardware, []byte("nothing")); err == nil {
		t.Error("took nothing for a root")
	}
}

// Names belong to keys, until a person revokes.
func TestNames(t *testing.T) {
	c := newCA(t, Options{})
	a, b := host(t, swtpmtest.Start(t), "web1", t.TempDir()), host(t, swtpmtest.Start(t), "web1", t.TempDir())
	pinHost(t, c, a)
	pinHost(t, c, b)
	first := enrolled(t, c, a)
	_, err := c.Challenge(must(b.Request(t.Context(), ""))(t))
	refused(t, err, "name", "hint: if that host is gone")
	// Expiry does not free a name.
	now := time.Now()
	c.at(now.Add(60 * 24 * time.Hour))
	_, err = c.Challenge(must(b.Request(t.Context(), ""))(t))
	refused(t, err, "name", "belongs to another")
	c.at(now)
	a.Name = "web2"
	_, err = c.Challenge(must(a.Request(t.Context(), ""))(t))
	refused(t, err, "name", "belongs to web1")
	if done := must(c.Revoke(must(c.Find("web1"))(t)[0].Serial, "gone"))(t); len(done) != 1 {
		t.Errorf("revoked %d", len(done))
	}
	enrolled(t, c, b)
	enrolled(t, c, a)
	verifyCode(t, verify(c, first.Result.Certificate, must(c.List())(t)), certificate.Revoked)
	for _, bad := range []string{"", "Web1", "web_1", "-web", "web-", "a..b", ".a", "a/b", "a b", "\xffa", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a"} {
		if err := certificate.CheckHost(bad); err == nil {
			t.Errorf("%q passes for a host's name", bad)
		}
	}
}

// What a certificate is worth, as time goes by and lists go missing.
func TestVerify(t *testing.T) {
	c := newCA(t, Options{})
	owner := newCA(t, Options{Name: "Owner", Kind: certificate.Owner})
	stranger := newCA(t, Options{})
	h := host(t, swtpmtest.Start(t), "web1", t.TempDir())
	for _, x := range []*CA{c, owner} {
		pinHost(t, x, h)
	}
	got, own := enrolled(t, c, h), enrolled(t, owner, h)
	der, list := got.Result.Certificate, got.Revocation
	o := certificate.Options{CA: c.cert.Raw, Kind: certificate.Platform, Lists: [][]byte{list}, Now: time.Now()}
	check := func(what, code string, der []byte, change func(*certificate.Options)) {
		t.Helper()
		with := o
		change(&with)
		_, err := certificate.Verify(der, with)
		if code == "" {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		verifyCode(t, err, code)
	}
	check("as is", "", der, func(*certificate.Options) {})
	check("no list", certificate.RevocationMissing, der, func(o *certificate.Options) { o.Lists = nil })
	check("no list wanted", "", der, func(o *certificate.Options) { o.Lists, o.NoRevocation = nil, true })
	check("another CA's list", certificate.RevocationMissing, der, func(o *certificate.Options) { o.Lists = [][]byte{must(stranger.List())(t)} })
	check("old list", certificate.RevocationStale, der, func(o *certificate.Options) { o.Now = o.Now.Add(8 * 24 * time.Hour) })
	check("expired", certificate.Expired, der, func(o *certificate.Options) { o.Now = o.Now.Add(31 * 24 * time.Hour) })
	check("early", certificate.Early, der, func(o *certificate.Options) { o.Now = o.Now.Add(-time.Hour) })
	check("another CA of one name", certificate.Untrusted, der, func(o *certificate.Options) { o.CA = stranger.cert.Raw })
	check("owner's", "", own.Result.Certificate, func(o *certificate.Options) {
		o.CA, o.Kind, o.Lists = owner.cert.Raw, certificate.Owner, [][]byte{own.Revocation}
	})
	check("owner's for the platform's", certificate.WrongKind, own.Result.Certificate, func(o *certificate.Options) { o.CA, o.Lists = owner.cert.Raw, [][]byte{own.Revocation} })
	check("platform's for the owner's", certificate.WrongKind, der, func(o *certificate.Options) { o.Kind = certificate.Owner })
	// A list with a smaller number than one that was seen is an old one put back.
	newer := must(certificate.Verify(der, certificate.Options{CA: o.CA, Kind: o.Kind, Lists: [][]byte{must(c.NewList())(t)}, Now: o.Now}))(t)
	check("list put back", certificate.RevocationStale, der, func(o *certificate.Options) { o.MinList = newer.List })
	// Every byte counts.
	for i := range der {
		bad := bytes.Clone(der)
		bad[i] ^= 1
		if _, err := certificate.Verify(bad, o); err == nil {
			t.Errorf("byte %d changed: still good", i)
		}
	}
}
