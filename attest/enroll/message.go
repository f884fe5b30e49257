// Package enroll is what a host and an AK-CA say to each other until the host
// has a certificate for its attestation key: two questions, two answers, as
// bytes, so that they may cross a file, a pipe or a network.
//
//	host → CA  Request    who I am: attestation key, endorsement key, its certificate
//	CA → host  Challenge  a credential that only the TPM with both keys can open
//	host → CA  Answer     what was in it, and a quote over it
//	CA → host  Result     the certificate
package enroll

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/sealift/sealift/measure/eventlog"
)

const (
	// Version is the version of all messages.
	Version = 1
	// MaxMessage bounds a message's length in bytes.
	MaxMessage = 128 << 10
	// maxChain bounds how many certificates a request brings along.
	maxChain = 16
)

// Quote is a TPMS_ATTEST and a TPMT_SIGNATURE.
type Quote struct {
	Message   []byte `json:"message"`
	Signature []byte `json:"signature"`
}

// Request asks for a challenge.
type Request struct {
	Version int    `json:"version"`
	Host    string `json:"host"`
	// AK and EK are TPMT_PUBLICs.
	AK []byte `json:"ak"`
	EK []byte `json:"ek"`
	// Certificate is the endorsement key's, DER; empty where it has none.
	Certificate []byte   `json:"ek_certificate"`
	Chain       [][]byte `json:"ek_chain"`
	// What the TPM says of itself, as measure/tpm reads it.
	Manufacturer string `json:"manufacturer"`
	Vendor       string `json:"vendor"`
	Firmware     string `json:"firmware"`
	// Quote is one of no PCRs, qualified by Qualification: its signer is a key of
	// the endorsement hierarchy.
	Quote Quote `json:"quote"`
	// Token admits the host at a CA on a network; empty elsewhere.
	Token string `json:"token"`
}

// Challenge can be answered by one TPM only.
type Challenge struct {
	Version int    `json:"version"`
	ID      []byte `json:"id"`
	// Authority is the CA's name, for people.
	Authority string `json:"authority"`
	Host      string `json:"host"`
	// AK and EK are the keys' names.
	AK []byte `json:"ak"`
	EK []byte `json:"ek"`
	// Credential is a TPMS_ID_OBJECT, Secret what a TPM2B_ENCRYPTED_SECRET holds.
	Credential []byte `json:"credential"`
	Secret     []byte `json:"secret"`
	Nonce      []byte `json:"nonce"`
	// Expires is in seconds since 1970.
	Expires int64 `json:"expires"`
}

// Answer proves that the challenge was opened, and by which key.
type Answer struct {
	Version int    `json:"version"`
	ID      []byte `json:"id"`
	// Secret is what the credential held.
	Secret []byte `json:"secret"`
	// Quote is one of no PCRs, qualified by Challenge.Qualification.
	Quote Quote `json:"quote"`
}

// Result is the certificate, DER, with its CA's and the CA's revocation list.
type Result struct {
	Version     int    `json:"version"`
	Certificate []byte `json:"certificate"`
	Authority   []byte `json:"authority"`
	Revocation  []byte `json:"revocation"`
}

// Qualification is the request's quote's qualifying data: SHA-256 over the
// length-prefixed parts.
func (r *Request) Qualification(akName, ekName []byte) [32]byte {
	return qualification("sealift/enroll/request/v1", []byte(r.Host), akName, ekName, []byte(r.Manufacturer), []byte(r.Vendor), []byte(r.Firmware))
}

// Qualification is the answer's quote's qualifying data.
func (c *Challenge) Qualification(opened []byte) [32]byte {
	return qualification("sealift/enroll/answer/v1", c.ID, c.Nonce, opened, []byte(c.Host), c.AK, c.EK)
}

// qualification hashes parts so that no two lists of parts have one input, and
// no other use of the key has one like it.
func qualification(label string, parts ...[]byte) [32]byte {
	h := sha256.New()
	for _, p := range append([][]byte{[]byte(label)}, parts...) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// message is any of the four.
type message interface{ version() int }

func (r *Request) version() int   { return r.Version }
func (c *Challenge) version() int { return c.Version }
func (a *Answer) version() int    { return a.Version }
func (r *Result) version() int    { return r.Version }

// Encode gives a message's bytes: canonical JSON and a line feed.
func Encode(m message) ([]byte, error) {
	b, err := eventlog.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("enrolment message: %w", err)
	}
	return append(b, '\n'), nil
}

// Decode reads a message. What encoding would not give again, byte for byte, is
// an error.
func Decode(b []byte, m message) error {
	if len(b) > MaxMessage {
		return fmt.Errorf("enrolment message: is %d bytes long, more than %d", len(b), MaxMessage)
	}
	if err := eventlog.Unmarshal(bytes.TrimSuffix(b, []byte{'\n'}), m); err != nil {
		return fmt.Errorf("enrolment message: %w", err)
	}
	if m.version() != Version {
		return fmt.Errorf("enrolment message: has version %d, only %d is known\nhint: update the older of both sides", m.version(), Version)
	}
	if r, ok := m.(*Request); ok && len(r.Chain) > maxChain {
		return fmt.Errorf("enrolment message: brings %d certificates, more than %d", len(r.Chain), maxChain)
	}
	again, err := Encode(m)
	if err != nil {
		return err
	}
	if !bytes.Equal(bytes.TrimSuffix(again, []byte{'\n'}), bytes.TrimSuffix(b, []byte{'\n'})) {
		return fmt.Errorf("enrolment message: not in canonical form")
	}
	return nil
}
