package ca

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/attest/key"
)

// examined is a request whose every part was looked at.
type examined struct {
	request *enroll.Request
	ak, ek  *key.Public
	// fingerprint is what certificates call the endorsement key by.
	fingerprint [sha256.Size]byte
	class       certificate.Class
	pin         *pin
	clock       tpm2.TPMSClockInfo
}

// examine checks all that can be known of a request before its TPM has proved
// anything. The names that other certificates hold are checked too.
func (c *CA) examine(r *enroll.Request, records []*Record) (*examined, error) {
	no := func(code, hint string, err error) (*examined, error) {
		return nil, &Refusal{Code: code, Host: r.Host, Message: err.Error(), Hint: hint}
	}
	x := &examined{request: r}
	if err := certificate.CheckHost(r.Host); err != nil {
		return no("name", "", err)
	}
	var err error
	if x.ak, err = key.ParsePublic(r.AK); err == nil {
		err = x.ak.CheckAttestation()
	}
	if err != nil {
		return no("ak", "", err)
	}
	if x.ek, err = key.ParsePublic(r.EK); err == nil {
		err = x.ek.CheckEndorsement()
	}
	if err == nil {
		x.fingerprint, err = certificate.EKFingerprint(x.ek.Key())
	}
	if err != nil {
		return no("ek", "", err)
	}
	q, err := x.ak.CheckQuote(r.Quote.Message, r.Quote.Signature)
	if err == nil {
		if want := r.Qualification(x.ak.Name(), x.ek.Name()); !bytes.Equal(q.ExtraData.Buffer, want[:]) {
			err = errors.New("quote: is not about this request")
		}
	}
	if err != nil {
		return no("quote", "", err)
	}
	x.clock = q.ClockInfo
	if x.pin, err = c.pinned(x.fingerprint); err != nil {
		return nil, err
	}
	if err := c.classify(x, q.FirmwareVersion); err != nil {
		return nil, err
	}
	return x, x.free(records)
}

// classify decides what stands behind the keys.
func (c *CA) classify(x *examined, firmware uint64) error {
	r := x.request
	class, m, why := c.vouched(x.ek, r.Certificate, r.Chain)
	if class != "" && m.manufacturer != r.Manufacturer {
		return &Refusal{Code: "ek", Host: r.Host,
			Message: fmt.Sprintf("endorsement key's certificate is for a TPM made by %q, and the TPM says it is made by %q", m.manufacturer, r.Manufacturer)}
	}
	if class == "" {
		if x.pin == nil {
			return &Refusal{Code: "ek", Host: r.Host,
				Message: fmt.Sprintf("endorsement key %x is not known: %v", x.fingerprint, why),
				Hint:    fmt.Sprintf("sealift ca add-ek-root, with its maker's root, or sealift ca pin-ek %x, if you know this TPM", x.fingerprint)}
		}
		class = certificate.Pinned
	}
	// An emulator has no better class than software, unless the one who runs it
	// vouches for it as virtual.
	if class != certificate.Virtual && software(m, r.Manufacturer, r.Vendor, firmware) {
		class = certificate.Software
	}
	if x.pin != nil && x.pin.Host != "" && x.pin.Host != r.Host {
		return &Refusal{Code: "name", Host: r.Host, Message: fmt.Sprintf("endorsement key is pinned as %s", x.pin.Host)}
	}
	x.class = class
	return nil
}

// free checks that the name belongs to this key or to nobody, that the key has
// no other name, and that the TPM's counters have not gone back. Expiry frees
// nothing; revocation does.
func (x *examined) free(records []*Record) error {
	for _, r := range records {
		if r.Revoked != 0 {
			continue
		}
		mine := bytes.Equal(r.AK, x.ak.Name())
		switch {
		case r.Host == x.request.Host && !mine:
			return &Refusal{Code: "name", Host: x.request.Host, Message: "the name belongs to another attestation key",
				Hint: "if that host is gone or was made anew: sealift ca revoke " + r.Host}
		case r.Host != x.request.Host && mine:
			return &Refusal{Code: "name", Host: x.request.Host, Message: "the attestation key belongs to " + r.Host,
				Hint: "two hosts with one key are copies of each other; if it was renamed: sealift ca revoke " + r.Host}
		case mine:
			if err := x.forward(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// forward checks the TPM's counters against those of an earlier certificate.
func (x *examined) forward(r *Record) error {
	reset, clock := x.clock.ResetCount, x.clock.Clock
	if reset > r.ResetCount || reset == r.ResetCount && clock >= r.Clock {
		return nil
	}
	return &Refusal{Code: "clock", Host: x.request.Host,
		Message: fmt.Sprintf("the TPM's counters went back (resets %d, clock %d; were %d, %d): its state was copied or put back", reset, clock, r.ResetCount, r.Clock),
		Hint:    "if the TPM was cleared: sealift ca revoke " + r.Host + ", then enrol again"}
}
