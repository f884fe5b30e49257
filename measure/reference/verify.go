package reference

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Verified is a bundle that at least one trusted key signed.
type Verified struct {
	Bundle *Bundle
	// Keys are the names of the trusted keys that signed it, in order of name.
	Keys []string
	// Digest is the SHA-256 of the payload, "sha256:<hex>".
	Digest string
}

// SignedBy says it as policies do: "KEY/BUNDLE" for each key.
func (v *Verified) SignedBy() []string {
	out := make([]string, len(v.Keys))
	for i, k := range v.Keys {
		out[i] = k + "/" + v.Bundle.Name
	}
	return out
}

// Verify checks an envelope against the trusted keys and the clock. Its error
// is a *MalformedError, an *UntrustedError or an *ExpiredError. Nothing of the
// payload is looked at before a signature holds.
//
// Whether the version is newer than what was known is the Store's question.
func Verify(envelope []byte, trust []Key, now time.Time) (*Verified, error) {
	v, err := verifySignatures(envelope, trust)
	if err != nil {
		return nil, err
	}
	if !now.Before(v.Bundle.Expires) {
		return nil, &ExpiredError{Name: v.Bundle.Name, Version: v.Bundle.Version, Expires: v.Bundle.Expires}
	}
	return v, nil
}

func verifySignatures(envelope []byte, trust []Key) (*Verified, error) {
	env, payload, err := open(envelope)
	if err != nil {
		return nil, err
	}
	message := dsse.PAE(env.PayloadType, payload)
	var sigs [][]byte
	var ids []string
	for i, s := range env.Signatures {
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil {
			return nil, &MalformedError{Reason: fmt.Sprintf("signatures[%d].sig: not base64", i)}
		}
		sigs, ids = append(sigs, sig), append(ids, s.KeyID)
	}
	var keys []string
	for _, k := range trust {
		for _, sig := range sigs {
			// The envelope's keyid is not signed, so it does not choose the key.
			if k.verify(message, sig) {
				keys = append(keys, k.Name)
				break
			}
		}
	}
	if len(keys) == 0 {
		return nil, &UntrustedError{KeyIDs: ids, Trusted: len(trust)}
	}
	b, err := Decode(payload)
	if err != nil {
		return nil, err
	}
	return &Verified{Bundle: b, Keys: keys, Digest: digest(payload)}, nil
}

// open takes an envelope apart and trusts nothing in it.
func open(envelope []byte) (*dsse.Envelope, []byte, error) {
	if len(envelope) > MaxEnvelope {
		return nil, nil, &MalformedError{Reason: fmt.Sprintf("envelope: more than %d bytes", MaxEnvelope)}
	}
	if err := checkKeys(envelope); err != nil {
		return nil, nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(envelope))
	dec.DisallowUnknownFields()
	var env dsse.Envelope
	if err := dec.Decode(&env); err != nil {
		return nil, nil, &MalformedError{Reason: "envelope: " + err.Error()}
	}
	switch {
	case env.PayloadType != PayloadType:
		return nil, nil, &MalformedError{Reason: fmt.Sprintf("envelope: payload type %q, wanted %s", env.PayloadType, PayloadType)}
	case len(env.Signatures) == 0 || len(env.Signatures) > maxSignatures:
		return nil, nil, &MalformedError{Reason: fmt.Sprintf("envelope: %d signatures; wanted 1 to %d", len(env.Signatures), maxSignatures)}
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(env.Payload)
	if err != nil {
		return nil, nil, &MalformedError{Reason: "envelope: payload: " + err.Error()}
	}
	return &env, payload, nil
}

// Inspect reads a bundle without verifying it, for showing; it returns the
// payload's digest and the key ids that the envelope names as well.
func Inspect(envelope []byte) (b *Bundle, payloadDigest string, keyIDs []string, err error) {
	env, payload, err := open(envelope)
	if err != nil {
		return nil, "", nil, err
	}
	if b, err = Decode(payload); err != nil {
		return nil, "", nil, err
	}
	for _, s := range env.Signatures {
		keyIDs = append(keyIDs, s.KeyID)
	}
	return b, digest(payload), keyIDs, nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
