// Package reference is about references from elsewhere: bundles that say what
// the layers of images must measure to, signed by somebody this host trusts.
//
// A bundle is a JSON payload in a DSSE envelope
// (https://github.com/secure-systems-lab/dsse). It has a name, a version that
// only grows, and a date after which it says nothing. A Store keeps the newest
// version of each name and takes no older one again.
//
// A reference also comes for free, from the blobs an image was pulled as; that
// proves that the disk equals the blobs. A signed bundle says, beyond that,
// that the blobs are the right ones, by the word of a key.
package reference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"time"
)

// PayloadType is the DSSE payload type of a bundle.
const PayloadType = "application/vnd.sealift.reference.v1+json"

// Bounds on what is read.
const (
	// MaxEnvelope bounds an envelope, in bytes: what fits into one message of
	// the node API.
	MaxEnvelope   = 3 << 20
	maxSignatures = 16
	maxImages     = 4096
	maxLayers     = 1024
)

// Bundle is the payload.
type Bundle struct {
	// Name is one line of versions; Version grows with each release of it.
	Name    string `json:"name"`
	Version uint64 `json:"version"`
	// Expires is in UTC, in whole seconds. From then on the bundle says nothing.
	Expires time.Time `json:"expires"`
	// Images may be empty: such a version withdraws what earlier ones said.
	Images []Image `json:"images"`
}

// Image is one manifest and what its layers measure to.
type Image struct {
	// Manifest is the digest of the platform's manifest, "sha256:<hex>".
	Manifest string `json:"manifest"`
	// Platform is os/architecture or os/architecture/variant.
	Platform string `json:"platform"`
	// Layers are in the order of the image, base first.
	Layers []Layer `json:"layers"`
}

// Layer is one layer.
type Layer struct {
	// DiffID is the SHA-256 of the uncompressed tar, "sha256:<hex>".
	DiffID string `json:"diffID"`
	// Digest is the layer digest, "sealift-layer-v1:<hex>".
	Digest string `json:"digest"`
}

var (
	nameShape     = regexp.MustCompile(`^[A-Za-z0-9][-._A-Za-z0-9]{0,127}$`)
	sha256Shape   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	layerShape    = regexp.MustCompile(`^sealift-layer-v1:[0-9a-f]{64}$`)
	platformShape = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9._]+)?$`)
)

// Validate returns a *MalformedError naming the first thing that is not as it
// must be.
func (b *Bundle) Validate() error {
	bad := func(format string, args ...any) error { return &MalformedError{Reason: fmt.Sprintf(format, args...)} }
	switch {
	case !nameShape.MatchString(b.Name):
		return bad("name %q: letters, digits, and - . _ after the first", b.Name)
	case b.Version == 0:
		return bad("version: begins at 1")
	case b.Expires.IsZero():
		return bad("expires: is missing")
	case b.Expires.Location() != time.UTC || b.Expires.Nanosecond() != 0:
		return bad("expires: must be UTC in whole seconds")
	case b.Images == nil:
		return bad("images: is missing")
	case len(b.Images) > maxImages:
		return bad("images: more than %d", maxImages)
	}
	seen := map[string]bool{}
	for i, im := range b.Images {
		switch {
		case !sha256Shape.MatchString(im.Manifest):
			return bad("images[%d].manifest %q: not a sha256 digest", i, im.Manifest)
		case seen[im.Manifest]:
			return bad("images[%d].manifest %s: listed twice", i, im.Manifest)
		case !platformShape.MatchString(im.Platform):
			return bad("images[%d].platform %q: not os/architecture[/variant]", i, im.Platform)
		case len(im.Layers) == 0 || len(im.Layers) > maxLayers:
			return bad("images[%d].layers: %d of them; wanted 1 to %d", i, len(im.Layers), maxLayers)
		}
		seen[im.Manifest] = true
		for j, l := range im.Layers {
			switch {
			case !sha256Shape.MatchString(l.DiffID):
				return bad("images[%d].layers[%d].diffID %q: not a sha256 digest", i, j, l.DiffID)
			case !layerShape.MatchString(l.Digest):
				return bad("images[%d].layers[%d].digest %q: not a layer digest", i, j, l.Digest)
			}
		}
	}
	return nil
}

// Encode validates b and returns its only encoding: no white space, fields in
// the order of the types above, expiry as RFC 3339 with Z.
func (b *Bundle) Encode() ([]byte, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(b); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", b.Name, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// Decode reads a payload. Only the bytes that Encode would write are taken:
// that rules out unknown, duplicate, missing and case-variant keys, trailing
// data and every second spelling of a value. Its error is a *MalformedError.
func Decode(payload []byte) (*Bundle, error) {
	if err := checkKeys(payload); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	var b Bundle
	if err := dec.Decode(&b); err != nil {
		return nil, &MalformedError{Reason: "payload: " + err.Error()}
	}
	again, err := b.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, payload) {
		return nil, &MalformedError{Reason: "payload: not in its canonical encoding"}
	}
	return &b, nil
}
