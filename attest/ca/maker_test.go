package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// maker makes a CA with a TPM maker's name, and a certificate by it for an
// endorsement key.
func makerFor(t *testing.T, ek *key.EK, id string) (root, leaf []byte) {
	t.Helper()
	k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Infineon OPTIGA(TM) TPM 2.0 Root CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root = must(x509.CreateCertificate(rand.Reader, ca, ca, k.Public(), k))(t)
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	var name []byte
	for _, a := range []attribute{{oidManufacturer, id}, {oidModel, "SLB9670"}} {
		name = append(name, must(asn1.MarshalWithParams([]attribute{a}, "set"))(t)...)
	}
	seq := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: name}))(t)
	san := must(asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: seq}}))(t)
	x := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageKeyAgreement, BasicConstraintsValid: true,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKUsage}, ExtraExtensions: []pkix.Extension{{Id: oidAlternative, Critical: true, Value: san}}}
	leaf = must(x509.CreateCertificate(rand.Reader, x, ca, must(key.ParsePublic(ek.Public))(t).Key(), k))(t)
	return root, leaf
}

// asMaker has the host say that its TPM is a maker's.
func asMaker(t *testing.T, h *enroll.Host, manufacturer, vendor string) []byte {
	t.Helper()
	var r enroll.Request
	if err := enroll.Decode(must(h.Request(t.Context(), ""))(t), &r); err != nil {
		t.Fatal(err)
	}
	r.Manufacturer, r.Vendor = manufacturer, vendor
	q := r.Qualification(h.AK.Name(), h.EK.Name())
	var err error
	if r.Quote.Message, r.Quote.Signature, err = h.AK.Quote(t.Context(), nil, q[:]); err != nil {
		t.Fatal(err)
	}
	return must(enroll.Encode(&r))(t)
}

// A software TPM that calls itself Infineon's, with a chain that says so too.
func TestAttackRogueMaker(t *testing.T) {
	h := host(t, swtpmtest.Start(t), "web1", t.TempDir())
	realRoot, _ := makerFor(t, h.EK, "id:49465800")
	root, leaf := makerFor(t, h.EK, "id:49465800")
	h.EK.Certificate, h.EK.Chain = leaf, [][]byte{root}
	request := asMaker(t, h, "IFX", "SLB9670")
	// The naive CA goes by names.
	var r enroll.Request
	if err := enroll.Decode(request, &r); err != nil {
		t.Fatal(err)
	}
	named := must(x509.ParseCertificate(r.Chain[0]))(t).Subject.String() == must(x509.ParseCertificate(realRoot))(t).Subject.String()
	if m, err := makerOf(must(x509.ParseCertificate(r.Certificate))(t)); err != nil || m.manufacturer != "IFX" || !named || !naive(t, request) {
		t.Errorf("the attack does not work on the naive CA: %v, %v", m, err)
	}
	c := newCA(t, Options{})
	must(c.AddEKRoot(certificate.Hardware, pemOf(realRoot)))(t)
	_, err := c.Challenge(request)
	refused(t, err, "ek", "is not known")
	// Were the very root trusted as hardware's, its quote's firmware version tells.
	must(c.AddEKRoot(certificate.Hardware, pemOf(root)))(t)
	issue := func(request []byte) certificate.Class {
		t.Helper()
		result := must(c.Issue(must(h.Answer(t.Context(), must(c.Challenge(request))(t)))(t)))(t)
		return must(enroll.Check(result, h.AK.Public, ""))(t).Statement.Class
	}
	if got := issue(request); got != certificate.Software {
		t.Errorf("an emulator has class %s", got)
	}
	// A certificate for another maker's TPM than the TPM says it is.
	_, err = c.Challenge(asMaker(t, h, "NTC", "NPCT75x"))
	refused(t, err, "ek", `made by "IFX"`)
	// A maker's certificate about something else: no endorsement key's.
	other := *h
	other.EK = &key.EK{}
	*other.EK = *h.EK
	_, other.EK.Certificate = makerFor(t, host(t, swtpmtest.Start(t), "x", t.TempDir()).EK, "id:49465800")
	_, err = c.Challenge(asMaker(t, &other, "IFX", "SLB9670"))
	refused(t, err, "ek", "for another key")
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
