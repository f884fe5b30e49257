package reference

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	_ "crypto/sha512" // for the hashes of P-384 and P-521
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Signer is a private key that signs bundles.
type Signer struct {
	key crypto.Signer
	id  string
}

var _ dsse.Signer = (*Signer)(nil)

// ParseSigner reads a PEM private key, in PKCS #8 ("PRIVATE KEY") or SEC 1
// ("EC PRIVATE KEY"), unencrypted.
func ParseSigner(data []byte) (*Signer, error) {
	var block *pem.Block
	for {
		// openssl ecparam writes the parameters before the key.
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("no private key in PEM\nhint: openssl genpkey -algorithm ed25519 -out KEY.pem")
		}
		if block.Type != "EC PARAMETERS" {
			break
		}
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the private key is encrypted\nhint: openssl pkey -in KEY.pem writes it decrypted; pass it on standard input with --key -")
	default:
		return nil, fmt.Errorf("PEM type %q, wanted PRIVATE KEY", block.Type)
	}
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key type %T cannot sign", key)
	}
	return NewSigner(s)
}

// NewSigner signs with key: Ed25519, or ECDSA on P-256, P-384 or P-521.
func NewSigner(key crypto.Signer) (*Signer, error) {
	if err := supported(key.Public()); err != nil {
		return nil, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, id: id}, nil
}

// KeyID is the SHA-256 of the public key's SubjectPublicKeyInfo, in hex.
func (s *Signer) KeyID() (string, error) { return s.id, nil }

// Public is the public key in PEM.
func (s *Signer) Public() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// Sign signs DSSE's pre-authentication encoding.
func (s *Signer) Sign(_ context.Context, data []byte) ([]byte, error) {
	switch pub := s.key.Public().(type) {
	case ed25519.PublicKey:
		return s.key.Sign(rand.Reader, data, crypto.Hash(0))
	case *ecdsa.PublicKey:
		h := curveHash(pub.Curve)
		d := h.New()
		d.Write(data)
		return s.key.Sign(rand.Reader, d.Sum(nil), h)
	default:
		return nil, fmt.Errorf("key type %T cannot sign", pub)
	}
}

// Sign encodes b and signs it with every signer; the result is an envelope in
// JSON.
func Sign(ctx context.Context, b *Bundle, signers ...*Signer) ([]byte, error) {
	payload, err := b.Encode()
	if err != nil {
		return nil, err
	}
	ds := make([]dsse.Signer, len(signers))
	for i, s := range signers {
		ds[i] = s
	}
	es, err := dsse.NewEnvelopeSigner(ds...)
	if err != nil {
		return nil, fmt.Errorf("reference %s: %w", b.Name, err)
	}
	env, err := es.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("reference %s: %w", b.Name, err)
	}
	data, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("reference %s: %w", b.Name, err)
	}
	return append(data, '\n'), nil
}
