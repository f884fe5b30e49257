package key

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealift/sealift/measure/tpm"
)

// AK is the attestation key: ECC P-256, ECDSA with SHA-256, restricted to what
// the TPM itself produced. It is safe for concurrent use.
//
// The TPM derives it from its endorsement seed and a secret of this host
// (Seed). The secret is what keeps others who may use the TPM from making the
// same key and quoting with data of their choice.
type AK struct {
	*Public

	dev      tpm.Device
	dir      string
	template tpm2.TPMTPublic

	mu sync.Mutex
	// saved is the key as the TPM handed it out, encrypted: loading it costs less
	// than making it again. A TPM reset voids it.
	saved *tpm2.TPMSContext
}

// akTemplate is the public area the key is made from; unique is derived from
// the seed.
func akTemplate(s seed) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			Restricted:          true,
			SignEncrypt:         true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: s[:32]},
			Y: tpm2.TPM2BECCParameter{Buffer: s[32:]},
		}),
	}
}

// OtherTPMError says that the TPM makes another key than it did before from the
// same seed: it was cleared, or it is another TPM.
type OtherTPMError struct {
	Device, Dir   string
	Before, After []byte
}

func (e *OtherTPMError) Error() string {
	return fmt.Sprintf("TPM %s: attestation key is %x, was %x: the TPM was cleared, or it is another one\nhint: certificates of the old key are worth nothing here; remove %s and enrol again",
		e.Device, e.After, e.Before, filepath.Join(e.Dir, publicFile))
}

// Open makes this host's attestation key, or finds it again: dir keeps its seed
// and its public area, and is made, 0700, where it is not there. Its error is an
// *OtherTPMError when dir belongs to another TPM.
func Open(ctx context.Context, dev tpm.Device, dir string) (*AK, error) {
	store, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	s, err := store.seed()
	if err != nil {
		return nil, err
	}
	a := &AK{dev: dev, dir: dir, template: akTemplate(s)}
	type made struct {
		public *Public
		saved  *tpm2.TPMSContext
	}
	m, err := run(ctx, dev, "TPM2_CreatePrimary(attestation key)", createTimeout, func(t transport.TPM) (made, error) {
		_, public, saved, err := a.create(t)
		return made{public, saved}, err
	})
	if err != nil {
		return nil, err
	}
	a.Public, a.saved = m.public, m.saved
	before, err := store.public()
	switch {
	case err != nil:
		return nil, err
	case before == nil:
		err = store.savePublic(a.Public.bytes)
	case !bytes.Equal(before, a.Public.bytes):
		old, err := ParsePublic(before)
		if err != nil {
			return nil, fmt.Errorf("attestation key in %s: %w", dir, err)
		}
		return nil, &OtherTPMError{Device: dev.Path(), Dir: dir, Before: old.name, After: a.Public.name}
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// create makes the key and hands it out saved. Its handle is loaded still.
func (a *AK) create(t transport.TPM) (tpm2.NamedHandle, *Public, *tpm2.TPMSContext, error) {
	none := tpm2.NamedHandle{}
	h, public, err := createPrimary(t, a.template)
	if err != nil {
		return none, nil, nil, err
	}
	r, err := tpm2.ContextSave{SaveHandle: h.Handle}.Execute(t)
	if err != nil {
		return none, nil, nil, err
	}
	return h, public, &r.Context, nil
}

// createPrimary makes a key of the endorsement hierarchy.
func createPrimary(t transport.TPM, template tpm2.TPMTPublic) (tpm2.NamedHandle, *Public, error) {
	none := tpm2.NamedHandle{}
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(t)
	if err != nil {
		return none, nil, err
	}
	area, err := r.OutPublic.Contents()
	if err != nil {
		return none, nil, err
	}
	public, err := newPublic(*area)
	if err != nil {
		return none, nil, err
	}
	if !bytes.Equal(public.name, r.Name.Buffer) {
		return none, nil, fmt.Errorf("key's name is %x, computed %x", r.Name.Buffer, public.name)
	}
	return tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}, public, nil
}

// load loads the key, from its saved form while that is valid.
func (a *AK) load(t transport.TPM) (tpm2.AuthHandle, error) {
	a.mu.Lock()
	saved := a.saved
	a.mu.Unlock()
	if saved != nil {
		r, err := tpm2.ContextLoad{Context: *saved}.Execute(t)
		if err == nil {
			return tpm2.AuthHandle{Handle: r.LoadedHandle, Name: tpm2.TPM2BName{Buffer: a.name}, Auth: tpm2.PasswordAuth(nil)}, nil
		}
		var code tpm2.TPMRC
		if !errors.As(err, &code) || errors.Is(err, tpm2.TPMRCObjectMemory) {
			return tpm2.AuthHandle{}, err
		}
	}
	h, public, saved, err := a.create(t)
	if err != nil {
		return tpm2.AuthHandle{}, err
	}
	if !bytes.Equal(public.name, a.name) {
		return tpm2.AuthHandle{}, &OtherTPMError{Device: a.dev.Path(), Dir: a.dir, Before: a.name, After: public.name}
	}
	a.mu.Lock()
	a.saved = saved
	a.mu.Unlock()
	return tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: tpm2.PasswordAuth(nil)}, nil
}

// Quote has the TPM sign the selected PCRs' digest and qualifying, which is at
// most a hash long. It returns the TPMS_ATTEST and the TPMT_SIGNATURE, byte for
// byte (TCG Part 2, sections 10.12.12 and 11.3.4).
func (a *AK) Quote(ctx context.Context, sel []tpm.Selection, qualifying []byte) (message, signature []byte, err error) {
	var list tpm2.TPMLPCRSelection
	for _, s := range sel {
		var pcrs []uint
		for _, p := range s.PCRs {
			if p < 0 {
				return nil, nil, fmt.Errorf("TPM %s: quote: PCR %d does not exist", a.dev.Path(), p)
			}
			pcrs = append(pcrs, uint(p))
		}
		list.PCRSelections = append(list.PCRSelections, tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgID(s.Bank), PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)})
	}
	r, err := run(ctx, a.dev, "TPM2_Quote", quoteTimeout, func(t transport.TPM) (*tpm2.QuoteResponse, error) {
		h, err := a.load(t)
		if err != nil {
			return nil, err
		}
		return tpm2.Quote{
			SignHandle:     h,
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      list,
		}.Execute(t)
	})
	if err != nil {
		return nil, nil, err
	}
	return r.Quoted.Bytes(), tpm2.Marshal(r.Signature), nil
}

// Activate opens a credential that was made for this key and the endorsement
// key EndorsementKey returns: credential is a TPMS_ID_OBJECT, secret the bytes of
// a TPM2B_ENCRYPTED_SECRET (TCG Part 1, section 24), both without their length.
func (a *AK) Activate(ctx context.Context, credential, secret []byte) ([]byte, error) {
	e, err := EndorsementKey(ctx, a.dev)
	if err != nil {
		return nil, err
	}
	return a.ActivateWith(ctx, e, credential, secret)
}

// ActivateWith is Activate with an endorsement key at hand.
func (a *AK) ActivateWith(ctx context.Context, e *EK, credential, secret []byte) ([]byte, error) {
	return run(ctx, a.dev, "TPM2_ActivateCredential", createTimeout, func(t transport.TPM) ([]byte, error) {
		// The endorsement key first: making it may need the room.
		ek, err := e.load(t)
		if err != nil {
			return nil, err
		}
		ak, err := a.load(t)
		if err != nil {
			return nil, err
		}
		r, err := tpm2.ActivateCredential{
			ActivateHandle: ak,
			KeyHandle: tpm2.AuthHandle{Handle: ek.Handle, Name: ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
				_, err := tpm2.PolicySecret{
					AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
					PolicySession: session,
					NonceTPM:      nonce,
				}.Execute(t)
				return err
			})},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
		}.Execute(t)
		if err != nil {
			return nil, err
		}
		return r.CertInfo.Buffer, nil
	})
}
