package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/sealift/sealift/measure/tpm"
)

// The structures below are parsed by hand, field by field, and nothing may be
// left over: what a library skips or forgives is what an attacker needs.

var errShort = errors.New("cut off")

type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.err = errShort
		return make([]byte, min(n, 8))
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte      { return r.take(1)[0] }
func (r *reader) u16() uint16   { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32   { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64   { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) sized() []byte { return r.take(int(r.u16())) }

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return errors.New("bytes after its end")
	}
	return r.err
}

// Values of the TPM 2.0 Library, Part 2.
const (
	generated    = 0xff544347 // TPM_GENERATED_VALUE, section 6.2
	stQuote      = 0x8018     // TPM_ST_ATTEST_QUOTE, section 6.9
	algNull      = 0x0010
	algSHA256    = 0x000b
	algECDSA     = 0x0018
	algECC       = 0x0023
	curveP256    = 0x0003
	rhEndorse    = 0x4000000b // TPM_RH_ENDORSEMENT, section 7.4
	maxSelection = 16
)

// selection is one bank of a quote's PCRs.
type selection struct {
	bank tpm.Bank
	pcrs []int
}

// quote is a TPMS_ATTEST of a quote (Part 2, section 10.12.8).
type quote struct {
	signer     []byte
	extra      []byte
	clock      uint64 // ms
	reset      uint32
	restart    uint32
	safe       bool
	firmware   uint64
	selections []selection
	digest     []byte
}

var (
	errMagic = errors.New("was not made by a TPM: its magic is not TPM_GENERATED_VALUE")
	errType  = errors.New("is not a quote")
)

func parseQuote(b []byte) (*quote, error) {
	r := &reader{b: b}
	if magic := r.u32(); r.err == nil && magic != generated {
		return nil, errMagic
	}
	if kind := r.u16(); r.err == nil && kind != stQuote {
		return nil, errType
	}
	q := &quote{signer: r.sized(), extra: r.sized(), clock: r.u64(), reset: r.u32(), restart: r.u32()}
	safe := r.u8()
	q.firmware = r.u64()
	n := r.u32()
	if r.err != nil {
		return nil, r.err
	}
	if safe > 1 || n > maxSelection {
		return nil, fmt.Errorf("safe is %d, %d banks", safe, n)
	}
	q.safe = safe == 1
	seen := map[tpm.Bank]bool{}
	for range n {
		s := selection{bank: tpm.Bank(r.u16())}
		bits := r.take(int(r.u8()))
		if r.err != nil {
			return nil, r.err
		}
		if seen[s.bank] {
			return nil, fmt.Errorf("bank %s is selected twice", s.bank)
		}
		seen[s.bank] = true
		for i, b := range bits {
			for k := range 8 {
				if b&(1<<k) != 0 {
					s.pcrs = append(s.pcrs, 8*i+k)
				}
			}
		}
		q.selections = append(q.selections, s)
	}
	q.digest = r.sized()
	return q, r.end()
}

// key is what the verifier needs of an attestation key.
type key struct {
	pub  *ecdsa.PublicKey
	name []byte
}

// Object attributes (Part 2, section 8.3).
const (
	attrFixedTPM            = 1 << 1
	attrFixedParent         = 1 << 4
	attrSensitiveDataOrigin = 1 << 5
	attrRestricted          = 1 << 16
	attrDecrypt             = 1 << 17
	attrSign                = 1 << 18
)

var errUnrestricted = errors.New("is not restricted: its holder can have any bytes signed, quotes that no TPM made too")

// parseKey reads a TPMT_PUBLIC and refuses every key that could sign anything
// but what its TPM produced.
func parseKey(b []byte) (*key, error) {
	r := &reader{b: b}
	kind, name, attrs := r.u16(), r.u16(), r.u32()
	r.sized() // the policy that may authorise its use
	symmetric, scheme, hash, curve, kdf := r.u16(), r.u16(), r.u16(), r.u16(), r.u16()
	x, y := r.sized(), r.sized()
	if r.err == nil && (kind != algECC || name != algSHA256) {
		return nil, errors.New("is not an elliptic-curve key with a SHA-256 name")
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	const must = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrSign
	switch {
	case attrs&attrRestricted == 0:
		return nil, errUnrestricted
	case attrs&must != must || attrs&attrDecrypt != 0:
		return nil, fmt.Errorf("has attributes 0x%08x: fixedTPM, fixedParent, sensitiveDataOrigin and sign are wanted, and not decrypt", attrs)
	case symmetric != algNull || scheme != algECDSA || hash != algSHA256 || curve != curveP256 || kdf != algNull:
		return nil, errors.New("is not for ECDSA on P-256 with SHA-256")
	case len(x) != 32 || len(y) != 32:
		return nil, errors.New("has coordinates that are not 32 bytes long")
	}
	point := append(append([]byte{4}, x...), y...)
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("is not a point of its curve: %w", err)
	}
	d := sha256.Sum256(b)
	return &key{pub, append([]byte{0, algSHA256}, d[:]...)}, nil
}

// qualified is the name a primary key of the endorsement hierarchy signs under
// (Part 1, section 16): nameAlg ‖ H(hierarchy ‖ name).
func (k *key) qualified() []byte {
	d := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, rhEndorse), k.name...))
	return append([]byte{0, algSHA256}, d[:]...)
}

// signed checks a TPMT_SIGNATURE (ECDSA with SHA-256) over message.
func (k *key) signed(message, signature []byte) error {
	r := &reader{b: signature}
	scheme, hash := r.u16(), r.u16()
	a, b := r.sized(), r.sized()
	if r.err == nil && (scheme != algECDSA || hash != algSHA256) {
		return errors.New("is not ECDSA with SHA-256")
	}
	if err := r.end(); err != nil {
		return err
	}
	if len(a) > 32 || len(b) > 32 {
		return errors.New("is longer than its curve")
	}
	d := sha256.Sum256(message)
	if !ecdsa.Verify(k.pub, d[:], new(big.Int).SetBytes(a), new(big.Int).SetBytes(b)) {
		return errors.New("does not verify with the attestation key")
	}
	return nil
}

// selects says whether a bank's selection holds a PCR.
func (q *quote) selects(bank tpm.Bank, pcr int) bool {
	for _, s := range q.selections {
		if s.bank != bank {
			continue
		}
		for _, p := range s.pcrs {
			if p == pcr {
				return true
			}
		}
	}
	return false
}

// banks lists the selected banks that hold any PCR.
func (q *quote) banks() []tpm.Bank {
	var out []tpm.Bank
	for _, s := range q.selections {
		if len(s.pcrs) > 0 {
			out = append(out, s.bank)
		}
	}
	return out
}

// composite computes the quoted digest from PCR values: the hash of the
// selected values in the selection's order (Part 1, section 17.5).
func (q *quote) composite(value func(tpm.Bank, int) []byte) []byte {
	h := sha256.New()
	for _, s := range q.selections {
		for _, p := range s.pcrs {
			h.Write(value(s.bank, p))
		}
	}
	return h.Sum(nil)
}

func (q *quote) is(value func(tpm.Bank, int) []byte) bool {
	return bytes.Equal(q.composite(value), q.digest)
}
