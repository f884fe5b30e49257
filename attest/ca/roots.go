package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/internal/durable"
)

// stores are the classes whose roots a CA holds, in the order they are tried.
var stores = []certificate.Class{certificate.Hardware, certificate.Virtual, certificate.Software}

func classDirs() []string {
	var out []string
	for _, s := range stores {
		out = append(out, filepath.Join(rootsDir, string(s)))
	}
	return out
}

// AddEKRoot takes certificates, PEM or one of DER, into a class's store: roots
// are trusted, others help to build chains to roots of the same class.
func (c *CA) AddEKRoot(class certificate.Class, data []byte) ([]*x509.Certificate, error) {
	if !slices.Contains(stores, class) {
		return nil, fmt.Errorf("CA %s: class %q has no roots\nhint: hardware, virtual or software", c.dir, string(class))
	}
	list, err := parseAll(data)
	if err != nil {
		return nil, fmt.Errorf("CA %s: endorsement root: %w", c.dir, err)
	}
	for _, x := range list {
		if !x.IsCA {
			return nil, fmt.Errorf("CA %s: endorsement root: %s is no certificate of a CA\nhint: one key is admitted with sealift ca pin-ek", c.dir, x.Subject)
		}
	}
	for _, x := range list {
		b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.Raw})
		if err := durable.Write(c.path(rootsDir, string(class), certificate.Fingerprint(x)+".pem"), b, 0o600); err != nil {
			return nil, fmt.Errorf("CA %s: endorsement root: %w", c.dir, err)
		}
	}
	return list, nil
}

func parseAll(data []byte) ([]*x509.Certificate, error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		x, err := x509.ParseCertificate(data)
		return []*x509.Certificate{x}, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	if len(out) == 0 {
		return nil, errors.New("the file holds no certificate")
	}
	return out, nil
}

// Roots lists what a class's store holds.
func (c *CA) Roots(class certificate.Class) ([]*x509.Certificate, error) {
	files, err := filepath.Glob(c.path(rootsDir, string(class), "*.pem"))
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for _, f := range files {
		if strings.HasPrefix(filepath.Base(f), ".") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("CA %s: endorsement root: %w", c.dir, err)
		}
		list, err := parseAll(b)
		if err != nil {
			return nil, fmt.Errorf("CA %s: endorsement root %s: %w", c.dir, f, err)
		}
		out = append(out, list...)
	}
	return out, nil
}

// maker is what a certificate says of a TPM's maker (TCG EK Credential Profile,
// section 3.2.9).
type maker struct{ manufacturer, model string }

var (
	oidAlternative  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidEKUsage      = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
)

// vouched finds the class whose roots vouch for the endorsement key; the class
// is empty where none does, and why says why not.
func (c *CA) vouched(ek *key.Public, der []byte, chain [][]byte) (class certificate.Class, m maker, why error) {
	if len(der) == 0 {
		return "", m, errors.New("it has no certificate")
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return "", m, fmt.Errorf("its certificate: %w", err)
	}
	if !ek.IsIn(leaf) {
		return "", m, errors.New("its certificate is for another key")
	}
	if leaf.IsCA || !slices.ContainsFunc(leaf.UnknownExtKeyUsage, oidEKUsage.Equal) {
		return "", m, errors.New("its certificate is none for an endorsement key: the maker's word is about something else")
	}
	if m, err = makerOf(leaf); err != nil {
		return "", m, err
	}
	intermediates := x509.NewCertPool()
	for _, b := range chain {
		x, err := x509.ParseCertificate(b)
		if err != nil {
			return "", m, fmt.Errorf("its certificate's chain: %w", err)
		}
		intermediates.AddCert(x)
	}
	for _, class := range stores {
		list, err := c.Roots(class)
		if err != nil {
			return "", m, err
		}
		roots, between := x509.NewCertPool(), intermediates.Clone()
		for _, x := range list {
			if bytes.Equal(x.RawIssuer, x.RawSubject) {
				roots.AddCert(x)
			} else {
				between.AddCert(x)
			}
		}
		_, err = leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: c.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err == nil {
			return class, m, nil
		}
		why = errors.Join(why, fmt.Errorf("no %s root vouches for it: %w", class, err))
	}
	return "", m, why
}

// makerOf reads the subject alternative name, which x509 leaves unhandled when
// it holds a directory name only, as here.
func makerOf(leaf *x509.Certificate) (maker, error) {
	var m maker
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(oidAlternative) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 {
			return m, errors.New("its certificate's alternative name is malformed")
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == 4 {
				m.read(n.Bytes)
			}
		}
	}
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, oidAlternative.Equal)
	if m.manufacturer == "" {
		return m, errors.New("its certificate names no TPM manufacturer")
	}
	return m, nil
}

func (m *maker) read(der []byte) {
	var sets []asn1.RawValue
	if _, err := asn1.Unmarshal(der, &sets); err != nil {
		return
	}
	for _, s := range sets {
		for rest := s.Bytes; len(rest) > 0; {
			var a struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			var err error
			if rest, err = asn1.Unmarshal(rest, &a); err != nil {
				return
			}
			switch {
			case a.Type.Equal(oidManufacturer):
				m.manufacturer = manufacturer(string(a.Value.Bytes))
			case a.Type.Equal(oidModel):
				m.model = string(a.Value.Bytes)
			}
		}
	}
}

// manufacturer turns "id:49465800" into the text a TPM gives: "IFX".
func manufacturer(s string) string {
	digits, ok := strings.CutPrefix(s, "id:")
	if !ok {
		return s
	}
	// swtpm writes the PCI vendor number of what its TPM calls "IBM".
	if digits == "00001014" {
		return "IBM"
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return s
	}
	return strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
}

// software reports whether what a TPM shows of itself is that of an emulator:
// libtpms, or the reference code, whose firmware version is a date.
func software(m maker, manufacturer, vendor string, firmware uint64) bool {
	v := strings.ToLower(vendor)
	if strings.HasPrefix(v, "sw") || strings.Contains(v, "simulator") || strings.Contains(strings.ToLower(m.model), "swtpm") || manufacturer == "IBM" {
		return true
	}
	date := uint32(firmware >> 32)
	year, month, day := date>>16, date>>8&0xff, date&0xff
	return year >= 0x2014 && year <= 0x2039 && month >= 1 && month <= 0x12 && day >= 1 && day <= 0x31
}
