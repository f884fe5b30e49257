package key

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealift/sealift/measure/tpm"
)

// EK is the endorsement key. Public is its TPMT_PUBLIC.
type EK struct {
	Public []byte
	// Certificate is the maker's, DER; nil where the TPM holds none for this key.
	Certificate []byte
	// Chain are intermediate certificates the TPM holds, DER, in its order.
	Chain [][]byte
	// Problem says why a certificate that is there was not taken.
	Problem string

	name     []byte
	template tpm2.TPMTPublic
	// handle is where the key is persistent; 0 where it has to be made.
	handle tpm2.TPMHandle
}

// Name returns the key's name.
func (e *EK) Name() []byte { return e.name }

// kind is one of the key types of the TCG EK Credential Profile for TPM 2.0
// (version 2.5, section 2.2.1.4, low range) with the places for it.
type kind struct {
	what                         string
	certificate, nonce, template uint32
	// persistent is where provisioning guidance puts the key (TCG TPM v2.0
	// Provisioning Guidance, section 7.8; 0x81010002 is what makers use for ECC).
	persistent tpm2.TPMHandle
	standard   tpm2.TPMTPublic
}

// kinds in the order of preference: an ECC key is made in a fraction of an RSA
// key's time.
var kinds = []kind{
	{"ECC P-256", 0x01c0000a, 0x01c0000b, 0x01c0000c, 0x81010002, tpm2.ECCEKTemplate},
	{"RSA 2048", 0x01c00002, 0x01c00003, 0x01c00004, 0x81010001, tpm2.RSAEKTemplate},
}

// chainFirst and chainLast are the indices for intermediate certificates (EK
// Credential Profile, section 2.2.1.5).
const chainFirst, chainLast = 0x01c00100, 0x01c001ff

// EndorsementKey finds the TPM's endorsement key: the one that has a
// certificate, or, where no key has one, the ECC key.
func EndorsementKey(ctx context.Context, dev tpm.Device) (*EK, error) {
	nv, err := readNV(ctx, dev)
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	var pile []byte
	for i := uint32(chainFirst); i <= chainLast; i++ {
		pile = append(pile, nv[i]...)
	}
	for len(pile) > 0 {
		one, rest, ok := certificate(pile)
		if !ok {
			break // padding
		}
		chain, pile = append(chain, one), rest
	}
	problem := ""
	for _, k := range kinds {
		if nv[k.certificate] == nil {
			continue
		}
		e, err := k.find(ctx, dev, nv)
		if err != nil {
			return nil, err
		}
		if e.Certificate != nil {
			e.Chain = chain
			return e, nil
		}
		problem = e.Problem
	}
	e, err := kinds[0].find(ctx, dev, nil)
	if err != nil {
		return nil, err
	}
	e.Problem = problem
	return e, nil
}

// find returns the key of the kind, with its certificate if nv has one for it.
func (k kind) find(ctx context.Context, dev tpm.Device, nv map[uint32][]byte) (*EK, error) {
	template, err := k.from(nv)
	if err != nil {
		return nil, fmt.Errorf("TPM %s: endorsement key (%s): %w", dev.Path(), k.what, err)
	}
	e := &EK{template: template}
	type found struct {
		public *Public
		handle tpm2.TPMHandle
	}
	f, err := run(ctx, dev, "TPM2_CreatePrimary(endorsement key)", createTimeout, func(t transport.TPM) (found, error) {
		if p, ok := persistent(t, k.persistent, template); ok {
			return found{p, k.persistent}, nil
		}
		_, p, err := createPrimary(t, template)
		return found{p, 0}, err
	})
	if err != nil {
		return nil, err
	}
	e.Public, e.name, e.handle = f.public.bytes, f.public.name, f.handle
	raw := nv[k.certificate]
	if raw == nil {
		return e, nil
	}
	der, _, ok := certificate(raw)
	if !ok {
		e.Problem = fmt.Sprintf("NV index 0x%08x holds no certificate", k.certificate)
		return e, nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		e.Problem = fmt.Sprintf("certificate in NV index 0x%08x: %v", k.certificate, err)
		return e, nil
	}
	if !f.public.IsIn(c) {
		e.Problem = fmt.Sprintf("certificate in NV index 0x%08x is for another key than the TPM makes", k.certificate)
		return e, nil
	}
	e.Certificate = der
	return e, nil
}

// from is the template the TPM's maker left in NV, or the standard one, with the
// maker's nonce in unique (EK Credential Profile, section 2.2.1.4).
func (k kind) from(nv map[uint32][]byte) (tpm2.TPMTPublic, error) {
	template := k.standard
	if b := nv[k.template]; b != nil {
		p, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
		if err != nil {
			return template, fmt.Errorf("template in NV index 0x%08x: %w", k.template, err)
		}
		template = *p
	}
	nonce := nv[k.nonce]
	if nonce == nil {
		return template, nil
	}
	switch template.Type {
	case tpm2.TPMAlgRSA:
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: padded(nonce, 256)})
	case tpm2.TPMAlgECC:
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: padded(nonce, 32)},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		})
	}
	return template, nil
}

func padded(b []byte, n int) []byte {
	out := make([]byte, max(n, len(b)))
	copy(out, b)
	return out
}

// persistent returns the key at the handle if it was made from the template.
func persistent(t transport.TPM, h tpm2.TPMHandle, template tpm2.TPMTPublic) (*Public, bool) {
	r, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(t)
	if err != nil {
		return nil, false // nothing is there; a dead link shows at the next command
	}
	area, err := r.OutPublic.Contents()
	if err != nil {
		return nil, false
	}
	// All but the key itself must be the template's.
	like := *area
	like.Unique = template.Unique
	if !bytes.Equal(tpm2.Marshal(like), tpm2.Marshal(template)) {
		return nil, false
	}
	p, err := newPublic(*area)
	return p, err == nil && slices.Equal(p.name, r.Name.Buffer)
}

// load gives the key's handle.
func (e *EK) load(t transport.TPM) (tpm2.NamedHandle, error) {
	if e.handle != 0 {
		if p, ok := persistent(t, e.handle, e.template); ok && bytes.Equal(p.name, e.name) {
			return tpm2.NamedHandle{Handle: e.handle, Name: tpm2.TPM2BName{Buffer: e.name}}, nil
		}
	}
	h, p, err := createPrimary(t, e.template)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	if !bytes.Equal(p.name, e.name) {
		return tpm2.NamedHandle{}, fmt.Errorf("endorsement key is %x, was %x: the TPM was cleared", p.name, e.name)
	}
	return h, nil
}
