package evidence

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Binding is all that a quote is for. A quote's qualifying data is always its
// Qualification and never bytes a caller chose: an agent that signs whatever it
// is given is an oracle.
type Binding struct {
	Purpose       string
	Exporter      []byte
	VerifierNonce []byte
	OwnNonce      []byte
	OwnSPKI       []byte
	PeerSPKI      []byte
	AKName        []byte
	Ticket        []byte
}

const quoteTag = "sealift/quote/v1"

// Qualification is the quote's qualifyingData: SHA-256 over the tag and the
// binding's fields in their order, each with its length before it (4 bytes,
// big-endian).
func Qualification(b Binding) [32]byte {
	h := sha256.New()
	for _, part := range [][]byte{
		[]byte(quoteTag), []byte(b.Purpose), b.Exporter, b.VerifierNonce, b.OwnNonce, b.OwnSPKI, b.PeerSPKI, b.AKName, b.Ticket,
	} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return [32]byte(h.Sum(nil))
}

// Binding is what the evidence says that its quote is for.
func (e *Evidence) Binding() (Binding, error) {
	name, err := Name(e.AK.Public)
	if err != nil {
		return Binding{}, err
	}
	return Binding{
		Purpose: e.Purpose, Exporter: e.Exporter, VerifierNonce: e.Nonces.Verifier, OwnNonce: e.Nonces.Own,
		OwnSPKI: e.SPKI.Own, PeerSPKI: e.SPKI.Peer, AKName: name, Ticket: e.Ticket,
	}, nil
}

// Name computes a key's TPM name from its TPMT_PUBLIC: nameAlg ‖ H(public)
// (TCG TPM 2.0 Library, Part 1, section 16). SHA-256 only.
func Name(public []byte) ([]byte, error) {
	if len(public) < 4 {
		return nil, errors.New("evidence: attestation key: too short for a TPMT_PUBLIC")
	}
	if alg := binary.BigEndian.Uint16(public[2:]); alg != uint16(tpm2.TPMAlgSHA256) {
		return nil, fmt.Errorf("evidence: attestation key: its name is made with algorithm 0x%04x, not SHA-256", alg)
	}
	d := sha256.Sum256(public)
	return append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), d[:]...), nil
}
