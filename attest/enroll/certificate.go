package enroll

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/internal/durable"
)

// Certificate is a certificate that a host holds for its key.
type Certificate struct {
	Result
	// Statement is what it says. It is not verified against any trust of ours.
	Statement *certificate.AK
}

// Fingerprint is SHA-256 of the CA's certificate in hex.
func (c *Certificate) Fingerprint() string {
	sum := sha256.Sum256(c.Authority)
	return hex.EncodeToString(sum[:])
}

func parseCertificate(result []byte) (*Certificate, error) {
	c := &Certificate{}
	if err := Decode(result, &c.Result); err != nil {
		return nil, err
	}
	a, err := certificate.Parse(c.Result.Certificate)
	if err != nil {
		return nil, err
	}
	_, err = certificate.Verify(c.Result.Certificate, certificate.Options{
		CA: c.Authority, Kind: a.Kind, NoRevocation: true, Now: a.Certificate.NotBefore,
	})
	if err != nil {
		return nil, err
	}
	c.Statement = a
	return c, nil
}

// Store keeps the certificate in dir, one of each kind.
func (c *Certificate) Store(dir string) error {
	b, err := Encode(&c.Result)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if err := durable.Write(filepath.Join(dir, file(c.Statement.Kind)), b, 0o600); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}

// Load returns the stored certificate of the kind, or nil.
func Load(dir string, kind certificate.Kind) (*Certificate, error) {
	path := filepath.Join(dir, file(kind))
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	c, err := parseCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", path, err)
	}
	return c, nil
}

func file(kind certificate.Kind) string { return string(kind) + ".certificate" }
