package layer

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is the digest of one layer's content: what a manifest of the layer
// form hashes to.
type Digest [32]byte

// TreeDigest is the digest of a cumulative tree (see Merge). It is a type of
// its own because the two say different things: a tree digest knows neither
// whiteouts nor the times of directories.
type TreeDigest [32]byte

// The tags open the hashed bytes, so that neither digest can be taken for the
// other, and open the text form.
const (
	layerTag = "sealift-layer-v1"
	treeTag  = "sealift-tree-v1"
)

// String returns "sealift-layer-v1:" and 64 lower-case hexadecimal digits.
func (d Digest) String() string { return layerTag + ":" + hex.EncodeToString(d[:]) }

// IsZero reports whether d is the zero value, which no layer has.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText writes the form of String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the form of String.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDigest(string(text))
	return err
}

// ParseDigest is the inverse of Digest.String; it accepts nothing else.
func ParseDigest(s string) (Digest, error) {
	b, err := parseTagged(layerTag, s)
	return Digest(b), err
}

// String returns "sealift-tree-v1:" and 64 lower-case hexadecimal digits.
func (d TreeDigest) String() string { return treeTag + ":" + hex.EncodeToString(d[:]) }

// IsZero reports whether d is the zero value, which no tree has.
func (d TreeDigest) IsZero() bool { return d == TreeDigest{} }

// MarshalText writes the form of String.
func (d TreeDigest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the form of String.
func (d *TreeDigest) UnmarshalText(text []byte) (err error) {
	*d, err = ParseTreeDigest(string(text))
	return err
}

// ParseTreeDigest is the inverse of TreeDigest.String; it accepts nothing else.
func ParseTreeDigest(s string) (TreeDigest, error) {
	b, err := parseTagged(treeTag, s)
	return TreeDigest(b), err
}

func parseTagged(tag, s string) (out [32]byte, err error) {
	rest, ok := strings.CutPrefix(s, tag+":")
	if !ok {
		return out, fmt.Errorf("digest %.100q: want %s:<64 hexadecimal digits>", s, tag)
	}
	// One digest has one spelling: upper-case digits are not accepted.
	if len(rest) != 2*len(out) || strings.ToLower(rest) != rest {
		return out, fmt.Errorf("digest %.100q: want 64 lower-case hexadecimal digits after %s:", s, tag)
	}
	if _, err := hex.Decode(out[:], []byte(rest)); err != nil {
		return [32]byte{}, fmt.Errorf("digest %.100q: %w", s, err)
	}
	return out, nil
}
