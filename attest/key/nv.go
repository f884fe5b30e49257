package key

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealift/sealift/measure/tpm"
)

// maxNV bounds what one index may hold, nvChunk what one command reads of it:
// every TPM's buffer holds that much (TPM_PT_NV_BUFFER_MAX, at least 512).
const (
	maxNV   = 16 << 10
	nvChunk = 512
	// nvTimeout holds for one index: a slow TPM reads a certificate in half a
	// second.
	nvTimeout = 5 * time.Second
)

// readNV reads the indices of the TCG's range for endorsement credentials that
// this package knows.
func readNV(ctx context.Context, dev tpm.Device) (map[uint32][]byte, error) {
	list, err := run(ctx, dev, "TPM2_GetCapability(NV indices)", 0, func(t transport.TPM) ([]tpm2.TPMHandle, error) {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x01c00000, PropertyCount: 254}.Execute(t)
		if err != nil {
			return nil, err
		}
		l, err := r.CapabilityData.Data.Handles()
		if err != nil {
			return nil, err
		}
		return l.Handle, nil
	})
	if err != nil {
		return nil, err
	}
	nv := map[uint32][]byte{}
	for _, h := range list {
		if !wanted(uint32(h)) {
			continue
		}
		b, err := run(ctx, dev, fmt.Sprintf("TPM2_NV_Read(0x%08x)", uint32(h)), nvTimeout, func(t transport.TPM) ([]byte, error) {
			return readIndex(t, h)
		})
		if err != nil {
			return nil, err
		}
		if len(b) > 0 {
			nv[uint32(h)] = b
		}
	}
	return nv, nil
}

func wanted(index uint32) bool {
	for _, k := range kinds {
		if index == k.certificate || index == k.nonce || index == k.template {
			return true
		}
	}
	return index >= chainFirst && index <= chainLast
}

func readIndex(t transport.TPM, h tpm2.TPMHandle) ([]byte, error) {
	r, err := tpm2.NVReadPublic{NVIndex: h}.Execute(t)
	if err != nil {
		return nil, err
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	if !public.Attributes.Written {
		return nil, nil
	}
	if public.DataSize > maxNV {
		return nil, fmt.Errorf("index holds %d bytes, more than the %d that are read", public.DataSize, maxNV)
	}
	index := tpm2.NamedHandle{Handle: h, Name: r.NVName}
	auth := tpm2.AuthHandle{Handle: h, Name: r.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !public.Attributes.AuthRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	var out []byte
	for len(out) < int(public.DataSize) {
		size := min(nvChunk, int(public.DataSize)-len(out))
		r, err := tpm2.NVRead{AuthHandle: auth, NVIndex: index, Size: uint16(size), Offset: uint16(len(out))}.Execute(t)
		if err != nil {
			return nil, err
		}
		if len(r.Data.Buffer) != size {
			return nil, fmt.Errorf("index gave %d bytes of %d", len(r.Data.Buffer), size)
		}
		out = append(out, r.Data.Buffer...)
	}
	return out, nil
}

// certificate cuts one DER value off b: makers pad, and put several into one
// index.
func certificate(b []byte) (der, rest []byte, ok bool) {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	if err != nil || v.Tag != asn1.TagSequence || !v.IsCompound {
		return nil, nil, false
	}
	return v.FullBytes, rest, true
}

// IsIn reports whether the certificate is for the key. Makers mark RSA
// keys with object identifiers that x509 does not know (id-RSAES-OAEP); their
// key is read from the same place.
func (p *Public) IsIn(c *x509.Certificate) bool {
	switch k := p.key.(type) {
	case *ecdsa.PublicKey:
		return k.Equal(c.PublicKey)
	case *rsa.PublicKey:
		if k.Equal(c.PublicKey) {
			return true
		}
		found, ok := rsaOf(c.RawSubjectPublicKeyInfo)
		return ok && k.Equal(found)
	}
	return false
}

func rsaOf(spki []byte) (crypto.PublicKey, bool) {
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &info); err != nil || len(rest) > 0 {
		return nil, false
	}
	k, err := x509.ParsePKCS1PublicKey(info.Key.RightAlign())
	return k, err == nil
}
