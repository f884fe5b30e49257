// Package certificate is the form of the certificates that bind an attestation
// key to a host: what an AK-CA writes and what a verifier reads. docs/attestation.md
// fixes it to the bit. It needs no TPM.
package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// Class says what stands behind an attestation key, as the CA found it.
type Class string

const (
	// Hardware is a TPM whose maker's root the CA holds as one of hardware.
	Hardware Class = "hardware"
	// Virtual is a TPM that a cloud or a hypervisor's operator vouches for.
	Virtual Class = "virtual"
	// Pinned is a TPM no maker vouches for here, whose endorsement key a person
	// has entered.
	Pinned Class = "pinned-unknown"
	// Software is a TPM whose identity and history can be copied.
	Software Class = "software"
)

// Classes are all classes, the strongest first.
var Classes = []Class{Hardware, Virtual, Pinned, Software}

// ParseClass returns the class of that name.
func ParseClass(s string) (Class, error) {
	for _, c := range Classes {
		if string(c) == s {
			return c, nil
		}
	}
	return "", fmt.Errorf("class %q is none of hardware, virtual, pinned-unknown and software", s)
}

// Kind says who speaks in a certificate.
type Kind string

const (
	// Platform says: this attestation key is in such a TPM.
	Platform Kind = "platform"
	// Owner says: this host is mine.
	Owner Kind = "owner"
)

// Object identifiers. Ours stand below 2.25.1587617537: an arc for anybody (ITU-T
// X.667), with a number that crypto/x509 can hold, which 128-bit ones it cannot.
var (
	// OIDAIK is tcg-kp-AIKCertificate (TCG Credential Profiles, section 3.3.4).
	OIDAIK = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
	// OIDBinding is the extension that holds the binding.
	OIDBinding = asn1.ObjectIdentifier{2, 25, 1587617537, 1}
	// OIDOwner is the extended key usage of owner certificates.
	OIDOwner = asn1.ObjectIdentifier{2, 25, 1587617537, 2}

	oidEKU = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// usage is the extended key usage of a kind.
func (k Kind) usage() (asn1.ObjectIdentifier, error) {
	switch k {
	case Platform:
		return OIDAIK, nil
	case Owner:
		return OIDOwner, nil
	}
	return nil, fmt.Errorf("certificate kind %q is neither platform nor owner", string(k))
}

// extendedKeyUsage allows a certificate this one use.
func (k Kind) extendedKeyUsage() (pkix.Extension, error) {
	usage, err := k.usage()
	if err != nil {
		return pkix.Extension{}, err
	}
	value, err := asn1.Marshal([]asn1.ObjectIdentifier{usage})
	if err != nil {
		return pkix.Extension{}, err
	}
	return pkix.Extension{Id: oidEKU, Critical: true, Value: value}, nil
}

// AK is what a certificate says of an attestation key.
type AK struct {
	Kind Kind
	// Host is the host's name at this CA.
	Host  string
	Class Class
	// Name is the key's TPM name: nameAlg ‖ H(TPMT_PUBLIC).
	Name []byte
	// EK is SHA-256 of the endorsement key's SubjectPublicKeyInfo.
	EK [sha256.Size]byte
	// Key is the attestation key itself.
	Key *ecdsa.PublicKey
	// Certificate is the whole.
	Certificate *x509.Certificate
}

// binding is the extension's content.
type binding struct {
	Version int
	Class   string `asn1:"utf8"`
	Name    []byte
	EK      []byte
}

const (
	bindingVersion = 1
	uriScheme      = "sealift"
	uriPrefix      = "host/"
)

// CheckHost checks a host's name: labels as in RFC 1123, lower case, at most 253
// bytes in all.
func CheckHost(name string) error {
	wrong := func(why string) error {
		return fmt.Errorf("host name %q: %s\nhint: letters a-z, digits and hyphens, in parts joined by dots", name, why)
	}
	if name == "" || len(name) > 253 {
		return wrong("must be 1 to 253 bytes long")
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 {
			return wrong("each part must be 1 to 63 bytes long")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return wrong("a part must not begin or end with a hyphen")
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return wrong(fmt.Sprintf("byte %q is not allowed", c))
			}
		}
	}
	return nil
}

// EKFingerprint is what certificates call an endorsement key by.
func EKFingerprint(public any) ([sha256.Size]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("endorsement key: %w", err)
	}
	return sha256.Sum256(spki), nil
}

// Template is the certificate of a, to be signed by a CA; its serial number is
// random.
func (a *AK) Template(notBefore, notAfter time.Time) (*x509.Certificate, error) {
	if err := CheckHost(a.Host); err != nil {
		return nil, err
	}
	if _, err := ParseClass(string(a.Class)); err != nil {
		return nil, err
	}
	usage, err := a.Kind.extendedKeyUsage()
	if err != nil {
		return nil, err
	}
	ext, err := asn1.Marshal(binding{bindingVersion, string(a.Class), a.Name, a.EK[:]})
	if err != nil {
		return nil, err
	}
	serial, err := NewSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: a.Host},
		URIs:                  []*url.URL{{Scheme: uriScheme, Opaque: uriPrefix + a.Host}},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		ExtraExtensions: []pkix.Extension{
			usage,
			{Id: OIDBinding, Value: ext},
		},
	}, nil
}

// NewSerial returns a random serial number of 126 bits or more.
func NewSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x3f | 0x40 // positive, and always 16 bytes
	return new(big.Int).SetBytes(b), nil
}

// Parse reads a certificate's statement, strictly; it checks no signature and
// no time.
func Parse(der []byte) (*AK, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, &Error{Code: Malformed, Message: err.Error()}
	}
	a, err := parse(c)
	if err != nil {
		return nil, &Error{Code: Malformed, Subject: c.Subject.CommonName, Message: err.Error()}
	}
	return a, nil
}

func parse(c *x509.Certificate) (*AK, error) {
	a := &AK{Certificate: c}
	var ok bool
	if a.Key, ok = c.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("holds a %s key; attestation keys are ECDSA", c.PublicKeyAlgorithm)
	}
	if c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature {
		return nil, errors.New("is not one for signing alone")
	}
	if len(c.UnhandledCriticalExtensions) > 0 {
		return nil, fmt.Errorf("has a critical extension %v that nobody here understands", c.UnhandledCriticalExtensions[0])
	}
	kind, err := kindOf(c)
	if err != nil {
		return nil, err
	}
	a.Kind = kind
	if len(c.URIs) != 1 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) > 0 {
		return nil, errors.New("does not name exactly one host")
	}
	u := c.URIs[0]
	host, ok := strings.CutPrefix(u.Opaque, uriPrefix)
	if u.Scheme != uriScheme || !ok || u.String() != uriScheme+":"+uriPrefix+host {
		return nil, fmt.Errorf("names %s, which is no sealift:host/NAME", u)
	}
	if err := CheckHost(host); err != nil {
		return nil, err
	}
	a.Host = host
	for _, e := range c.Extensions {
		if !e.Id.Equal(OIDBinding) {
			continue
		}
		return a, a.read(e.Value)
	}
	return nil, errors.New("does not say what it binds: the extension is missing")
}

func (a *AK) read(der []byte) error {
	var b binding
	rest, err := asn1.Unmarshal(der, &b)
	if err != nil || len(rest) > 0 {
		return fmt.Errorf("binding is malformed: %w", errors.Join(err, trailing(rest)))
	}
	if again, err := asn1.Marshal(b); err != nil || !bytes.Equal(again, der) {
		return errors.New("binding is not in canonical form")
	}
	if b.Version != bindingVersion {
		return fmt.Errorf("binding has version %d, only %d is known", b.Version, bindingVersion)
	}
	if a.Class, err = ParseClass(b.Class); err != nil {
		return err
	}
	if len(b.Name) < 2+sha256.Size || len(b.EK) != sha256.Size {
		return errors.New("binding's key name or fingerprint is too short")
	}
	a.Name = b.Name
	copy(a.EK[:], b.EK)
	return nil
}

func trailing(rest []byte) error {
	if len(rest) == 0 {
		return nil
	}
	return fmt.Errorf("%d bytes follow it", len(rest))
}

// kindOf reads the kind from the extended key usage, which must be critical and
// alone.
func kindOf(c *x509.Certificate) (Kind, error) {
	critical := false
	for _, e := range c.Extensions {
		if e.Id.Equal(oidEKU) {
			critical = e.Critical
		}
	}
	if !critical || len(c.ExtKeyUsage) > 0 || len(c.UnknownExtKeyUsage) != 1 {
		return "", errors.New("its extended key usage is not one of ours, alone and critical")
	}
	for _, k := range []Kind{Platform, Owner} {
		usage, err := k.usage()
		if err != nil {
			return "", err
		}
		if c.UnknownExtKeyUsage[0].Equal(usage) {
			return k, nil
		}
	}
	return "", fmt.Errorf("its extended key usage %v is not one of ours", c.UnknownExtKeyUsage[0])
}
