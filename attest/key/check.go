package key

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// CheckAttestation says why a public area is not that of an attestation key
// whose quotes mean anything, or nil: only the TPM that made it can use it, and it
// signs nothing that the TPM did not produce.
func (p *Public) CheckAttestation() error {
	a := p.area.ObjectAttributes
	for _, x := range []struct {
		wrong bool
		why   string
	}{
		{!a.FixedTPM, "is not fixedTPM: it may be in other TPMs, or outside of any"},
		{!a.FixedParent, "is not fixedParent: it may be in other TPMs"},
		{!a.SensitiveDataOrigin, "is not sensitiveDataOrigin: it was made outside of the TPM"},
		{!a.Restricted, "is not restricted: it signs what anybody gives it"},
		{!a.SignEncrypt, "cannot sign"},
		{a.Decrypt, "is for decryption as well"},
		{a.EncryptedDuplication, "can be duplicated"},
		{!a.UserWithAuth || a.AdminWithPolicy || len(p.area.AuthPolicy.Buffer) > 0, "has a policy of its own"},
		{p.area.NameAlg != tpm2.TPMAlgSHA256, "is not named by SHA-256"},
		{p.area.Type != tpm2.TPMAlgECC, "is not an ECC key"},
	} {
		if x.wrong {
			return errors.New("attestation key " + x.why)
		}
	}
	ecc, err := p.area.Parameters.ECCDetail()
	if err != nil {
		return fmt.Errorf("attestation key: %w", err)
	}
	scheme, err := ecc.Scheme.Details.ECDSA()
	if ecc.CurveID != tpm2.TPMECCNistP256 || ecc.Scheme.Scheme != tpm2.TPMAlgECDSA || err != nil || scheme.HashAlg != tpm2.TPMAlgSHA256 {
		return errors.New("attestation key is not one for ECDSA on P-256 with SHA-256")
	}
	return nil
}

// CheckEndorsement says why a public area is not that of an endorsement key that
// credentials may be made for, or nil: a storage key that never leaves its TPM and
// opens credentials only with the endorsement hierarchy's authorisation.
func (p *Public) CheckEndorsement() error {
	a := p.area.ObjectAttributes
	if !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.Restricted || !a.Decrypt || a.SignEncrypt || a.EncryptedDuplication {
		return errors.New("endorsement key is not a restricted decryption key that stays in its TPM")
	}
	for _, k := range kinds {
		if k.standard.Type == p.area.Type && k.standard.NameAlg == p.area.NameAlg &&
			bytes.Equal(k.standard.AuthPolicy.Buffer, p.area.AuthPolicy.Buffer) {
			switch p.area.Type {
			case tpm2.TPMAlgRSA:
				if r, err := p.area.Parameters.RSADetail(); err == nil && r.KeyBits == 2048 {
					return nil
				}
			case tpm2.TPMAlgECC:
				if e, err := p.area.Parameters.ECCDetail(); err == nil && e.CurveID == tpm2.TPMECCNistP256 {
					return nil
				}
			}
		}
	}
	return errors.New("endorsement key is of a kind that is not known here")
}

// CheckQuote verifies a quote: its signature by the key, that a TPM produced it
// as a quote, and that the key is a primary one of the endorsement hierarchy. It
// returns what was signed. Whether extraData is the right one is the caller's to
// check.
func (p *Public) CheckQuote(message, signature []byte) (*tpm2.TPMSAttest, error) {
	k, ok := p.key.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("quote: key is no ECDSA key")
	}
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil {
		return nil, fmt.Errorf("quote: signature: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(*s), signature) {
		return nil, errors.New("quote: signature is not in canonical form")
	}
	e, err := s.Signature.ECDSA()
	if err != nil || s.SigAlg != tpm2.TPMAlgECDSA || e.Hash != tpm2.TPMAlgSHA256 {
		return nil, errors.New("quote: signature is not ECDSA with SHA-256")
	}
	sum := sha256.Sum256(message)
	if !ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)) {
		return nil, errors.New("quote: signature is not the attestation key's")
	}
	q, err := tpm2.Unmarshal[tpm2.TPMSAttest](message)
	if err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(*q), message) {
		return nil, errors.New("quote: not in canonical form")
	}
	if q.Magic != tpm2.TPMGeneratedValue || q.Type != tpm2.TPMSTAttestQuote {
		return nil, errors.New("quote: the TPM signed something, and it is no quote")
	}
	want, err := QualifiedName(tpm2.TPMRHEndorsement, p.name)
	if err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	if !bytes.Equal(q.QualifiedSigner.Buffer, want) {
		return nil, errors.New("quote: the key is not a primary key of the endorsement hierarchy")
	}
	return q, nil
}
