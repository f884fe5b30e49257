package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
)

// channelKey is the key of one run of the agent: it signs evidence and is shown
// to peers. It is made at the start, stands in the log's agent-start record and
// in each quote, and is never written down: who has it, is that run.
type channelKey struct {
	private *ecdsa.PrivateKey
	// spki is the public key as a DER SubjectPublicKeyInfo (RFC 5280, 4.1).
	spki []byte
}

func newChannelKey() (*channelKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("channel key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, fmt.Errorf("channel key: %w", err)
	}
	return &channelKey{k, spki}, nil
}

// Signer signs with the key.
func (k *channelKey) Signer() crypto.Signer { return k.private }

// digest is the key as the log names it.
func (k *channelKey) digest() string {
	sum := sha256.Sum256(k.spki)
	return hex.EncodeToString(sum[:])
}
