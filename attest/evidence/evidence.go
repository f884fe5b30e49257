// Package evidence is the form in which a host proves itself to a stranger: a
// quote, the logs the quote is over, the certificates of the key that made it,
// in one canonical JSON object (docs/attestation.md, section "Evidence").
//
// It knows the form and what is signed how. Whether any of it is to be believed
// is attest/verify's business.
package evidence

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
)

// Version is the version of the format.
const Version = 1

// What evidence is made for. A quote for one purpose never serves another.
const (
	// Offline evidence is carried to a verifier as a file.
	Offline = "offline"
	// Channel evidence is bound to one TLS connection.
	Channel = "channel"
)

// Evidence is one host's evidence. Byte fields are hex in JSON; an empty one is
// absent.
type Evidence struct {
	Version    uint32     `json:"version"`
	Purpose    string     `json:"purpose"`
	Nonces     Nonces     `json:"nonces"`
	Exporter   []byte     `json:"exporter"`
	SPKI       Keys       `json:"spki"`
	Ticket     []byte     `json:"ticket"`
	AK         AK         `json:"ak"`
	Quote      Quote      `json:"quote"`
	Properties Properties `json:"properties"`
	// Boot is the firmware's log (binary_bios_measurements), IMA the kernel's
	// (binary_runtime_measurements).
	Boot []byte `json:"boot"`
	IMA  []byte `json:"ima"`
	Log  Log    `json:"log"`
	// Signature is the channel key's (SPKI.Own), ASN.1 ECDSA, over Digest.
	Signature []byte `json:"signature"`
}

// Nonces are the verifier's and the host's own.
type Nonces struct {
	Verifier []byte `json:"verifier"`
	Own      []byte `json:"own"`
}

// Keys are subject public key infos, DER: the agent's channel key and, on a
// channel, the peer's.
type Keys struct {
	Own  []byte `json:"own"`
	Peer []byte `json:"peer"`
}

// AK is the attestation key: its TPMT_PUBLIC and what certifies it, DER, leaf
// first.
type AK struct {
	Public       []byte   `json:"public"`
	Certificates [][]byte `json:"certificates"`
	Owner        [][]byte `json:"owner"`
}

// Quote is TPMS_ATTEST and TPMT_SIGNATURE as the TPM gave them.
type Quote struct {
	Message   []byte `json:"message"`
	Signature []byte `json:"signature"`
}

// Properties is what the TPM said of itself. Nothing but the channel key's
// signature is over them: they are for a person to read.
type Properties struct {
	Manufacturer string `json:"manufacturer"`
	Vendor       string `json:"vendor"`
	Firmware     string `json:"firmware"`
}

// Log is the event log, or what one tenant may see of it.
type Log struct {
	// Namespace is empty for the node's whole log. Container is set when only
	// one container's records of Namespace are open.
	Namespace string `json:"namespace"`
	Container string `json:"container"`
	// From is the sequence number the first line belongs to: 1, or later when
	// the verifier holds a checkpoint of what came before.
	From uint64 `json:"from"`
	// Lines are stored lines as eventlog.DecodeLine takes them. Decode does not
	// look into them beyond where they end: the replay does.
	Lines [][]byte `json:"-"`
}

// tag is put ahead of what the channel key signs.
const tag = "sealift/evidence/v1"

// Digest is what Signature is over: SHA-256 of the tag and of all bytes of the
// encoded object before `,"signature"`.
func (e *Evidence) Digest() ([32]byte, error) {
	h := sha256.New()
	h.Write([]byte(tag))
	if err := e.writeCovered(h); err != nil {
		return [32]byte{}, err
	}
	return [32]byte(h.Sum(nil)), nil
}

// Sign fills in SPKI.Own's signature. The key must be SPKI.Own's.
func (e *Evidence) Sign(key crypto.Signer) error {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("evidence: channel key: %w", err)
	}
	if string(spki) != string(e.SPKI.Own) {
		return errors.New("evidence: the signing key is not the channel key that the quote binds")
	}
	d, err := e.Digest()
	if err != nil {
		return err
	}
	e.Signature, err = key.Sign(rand.Reader, d[:], crypto.SHA256)
	if err != nil {
		return fmt.Errorf("evidence: signature: %w", err)
	}
	return nil
}

// VerifySignature checks Signature against SPKI.Own. Whose key that is, the
// quote's qualification and the log say.
func (e *Evidence) VerifySignature() error {
	pub, err := x509.ParsePKIXPublicKey(e.SPKI.Own)
	if err != nil {
		return fmt.Errorf("evidence: channel key: %w", err)
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve.Params().BitSize != 256 {
		return errors.New("evidence: channel key: only ECDSA P-256 is used here")
	}
	d, err := e.Digest()
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(key, d[:], e.Signature) {
		return errors.New("evidence: the signature over the whole does not verify: a byte was changed, or it was made by another agent")
	}
	return nil
}
