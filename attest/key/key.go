// Package key is the TPM's side of attestation: the endorsement key that the
// TPM's maker vouches for, the attestation key that quotes, and the activation
// that proves to a CA that both are in one TPM.
//
// Both keys are primary keys of the endorsement hierarchy. Neither is made
// persistent: nothing is left in the TPM between commands, and the owner's
// authorisation is not needed.
package key

import (
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealift/sealift/measure/tpm"
)

// Times that commands may take. Starts wait for the same TPM, so a quote's is as
// short as published figures for slow hardware allow (0.6 s); making an RSA key
// takes some TPMs many seconds, and happens only at enrolment.
const (
	quoteTimeout  = 5 * time.Second
	createTimeout = 30 * time.Second
)

// run runs f over the device's link and returns its value; f may be called again.
func run[T any](ctx context.Context, dev tpm.Device, name string, timeout time.Duration, f func(transport.TPM) (T, error)) (T, error) {
	var none T
	c, ok := dev.(tpm.Commander)
	if !ok {
		return none, fmt.Errorf("TPM %s: %s: device lends no link: %w", dev.Path(), name, errors.ErrUnsupported)
	}
	var v T
	err := c.Command(ctx, name, timeout, func(t transport.TPM) (err error) {
		v, err = f(t)
		return err
	})
	if err != nil {
		return none, err // an f that was given up on may write to v still
	}
	return v, nil
}

// Public is the public area of a key, TPMT_PUBLIC (TCG Part 2, section 12.2.4),
// with what is computed from it.
type Public struct {
	bytes []byte
	name  []byte
	key   crypto.PublicKey
	area  tpm2.TPMTPublic
}

// ParsePublic decodes a TPMT_PUBLIC. Bytes that encoding would not give again
// are an error, so that a name is the name of the bytes.
func ParsePublic(b []byte) (*Public, error) {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
	if err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	if string(tpm2.Marshal(*area)) != string(b) {
		return nil, errors.New("public area: not in canonical form")
	}
	return newPublic(*area)
}

func newPublic(area tpm2.TPMTPublic) (*Public, error) {
	name, err := tpm2.ObjectName(&area)
	if err != nil {
		return nil, fmt.Errorf("public area: name: %w", err)
	}
	k, err := tpm2.Pub(area)
	if err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	return &Public{bytes: tpm2.Marshal(area), name: name.Buffer, key: k, area: area}, nil
}

// Public returns the TPMT_PUBLIC.
func (p *Public) Public() []byte { return p.bytes }

// Name returns the key's name: nameAlg ‖ H_nameAlg(TPMT_PUBLIC) (TCG Part 1,
// section 16).
func (p *Public) Name() []byte { return p.name }

// Key returns the key itself: *ecdsa.PublicKey or *rsa.PublicKey.
func (p *Public) Key() crypto.PublicKey { return p.key }

// Area returns the decoded TPMT_PUBLIC.
func (p *Public) Area() tpm2.TPMTPublic { return p.area }

// QualifiedName is the qualified name of a primary key of the hierarchy with
// that name (TCG Part 1, section 16): nameAlg ‖ H_nameAlg(hierarchy ‖ name). A
// quote bears its key's, which proves where the key lives.
func QualifiedName(hierarchy tpm2.TPMHandle, name []byte) ([]byte, error) {
	if len(name) < 2 {
		return nil, errors.New("name is too short")
	}
	algorithm := tpm2.TPMAlgID(binary.BigEndian.Uint16(name))
	h, err := algorithm.Hash()
	if err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	if len(name) != 2+h.Size() {
		return nil, fmt.Errorf("name is %d bytes long, not %d", len(name), 2+h.Size())
	}
	d := h.New()
	d.Write(tpm2.PrimaryHandleName(hierarchy))
	d.Write(name)
	return d.Sum(name[:2:2]), nil
}
