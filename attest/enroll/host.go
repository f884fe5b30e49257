package enroll

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/tpm"
)

// Host is the host's side. Its methods may be called any number of times.
type Host struct {
	Device tpm.Device
	AK     *key.AK
	EK     *key.EK
	// Name is what the host wants to be called.
	Name string
}

// Request makes the request; token admits at a CA on a network.
func (h *Host) Request(ctx context.Context, token string) ([]byte, error) {
	if err := certificate.CheckHost(h.Name); err != nil {
		return nil, err
	}
	p, err := h.Device.Properties(ctx)
	if err != nil {
		return nil, err
	}
	r := &Request{
		Version: Version, Host: h.Name, AK: h.AK.Public.Public(), EK: h.EK.Public, Certificate: h.EK.Certificate, Chain: h.EK.Chain,
		Manufacturer: p.Manufacturer, Vendor: p.Vendor, Firmware: p.Firmware, Token: token,
	}
	q := r.Qualification(h.AK.Name(), h.EK.Name())
	if r.Quote.Message, r.Quote.Signature, err = h.AK.Quote(ctx, nil, q[:]); err != nil {
		return nil, err
	}
	return Encode(r)
}

// Answer opens a challenge and quotes over it.
func (h *Host) Answer(ctx context.Context, challenge []byte) ([]byte, error) {
	var c Challenge
	if err := Decode(challenge, &c); err != nil {
		return nil, err
	}
	if c.Host != h.Name || !bytes.Equal(c.AK, h.AK.Name()) || !bytes.Equal(c.EK, h.EK.Name()) {
		return nil, fmt.Errorf("enrolment challenge: is for %s and other keys than this TPM's\nhint: make a new request", c.Host)
	}
	opened, err := h.AK.ActivateWith(ctx, h.EK, c.Credential, c.Secret)
	if err != nil {
		return nil, err
	}
	a := &Answer{Version: Version, ID: c.ID, Secret: opened}
	q := c.Qualification(opened)
	if a.Quote.Message, a.Quote.Signature, err = h.AK.Quote(ctx, nil, q[:]); err != nil {
		return nil, err
	}
	return Encode(a)
}

// Check checks that a result is a certificate for this key, by the CA with the
// fingerprint where one is given.
func Check(result []byte, ak *key.Public, fingerprint string) (*Certificate, error) {
	c, err := parseCertificate(result)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(c.Statement.Name, ak.Name()) || !c.Statement.Key.Equal(ak.Key()) {
		return nil, errors.New("enrolment result: the certificate is for another key than this host's")
	}
	if fingerprint != "" && c.Fingerprint() != plain(fingerprint) {
		return nil, fmt.Errorf("enrolment result: the CA's certificate is %s, not %s\nhint: compare with sealift ca show, on the CA", c.Fingerprint(), fingerprint)
	}
	return c, nil
}
