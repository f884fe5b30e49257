package certificate

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"time"
)

// AuthorityTemplate is the certificate of a CA that signs certificates of one
// kind and nothing else; it is to be signed by itself.
func AuthorityTemplate(name string, kind Kind, notBefore, notAfter time.Time) (*x509.Certificate, error) {
	usage, err := kind.extendedKeyUsage()
	if err != nil {
		return nil, err
	}
	serial, err := NewSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		ExtraExtensions:       []pkix.Extension{usage},
	}, nil
}

// ParseAuthority reads a CA's certificate and the kind of certificate it signs.
func ParseAuthority(der []byte) (*x509.Certificate, Kind, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, "", &Error{Code: Malformed, Message: err.Error()}
	}
	wrong := func(err error) (*x509.Certificate, Kind, error) {
		return nil, "", &Error{Code: Malformed, Subject: c.Subject.CommonName, Message: err.Error()}
	}
	const usage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if !c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != usage || !c.MaxPathLenZero || len(c.UnhandledCriticalExtensions) > 0 {
		return wrong(errors.New("is no certificate of an AK-CA"))
	}
	kind, err := kindOf(c)
	if err != nil {
		return wrong(err)
	}
	return c, kind, nil
}

// Fingerprint is SHA-256 of a certificate in hex: what a person compares.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
