package tpm

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
)

// Bank names a PCR bank by its TPM_ALG_ID (TCG Algorithm Registry, table 3).
type Bank uint16

// The banks whose hash this package can compute. An allocated bank of another
// kind makes Open fail: left alone it would let anybody forge a log in it.
const (
	SHA1     Bank = 0x0004
	SHA256   Bank = 0x000B
	SHA384   Bank = 0x000C
	SHA512   Bank = 0x000D
	SHA3x256 Bank = 0x0027
	SHA3x384 Bank = 0x0028
	SHA3x512 Bank = 0x0029
)

var banks = map[Bank]struct {
	name string
	size int
	hash func() hash.Hash
}{
	SHA1:     {"sha1", sha1.Size, sha1.New},
	SHA256:   {"sha256", sha256.Size, sha256.New},
	SHA384:   {"sha384", sha512.Size384, sha512.New384},
	SHA512:   {"sha512", sha512.Size, sha512.New},
	SHA3x256: {"sha3_256", 32, func() hash.Hash { return sha3.New256() }},
	SHA3x384: {"sha3_384", 48, func() hash.Hash { return sha3.New384() }},
	SHA3x512: {"sha3_512", 64, func() hash.Hash { return sha3.New512() }},
}

// ParseBank returns the bank that String gives the name.
func ParseBank(name string) (Bank, error) {
	for b, s := range banks {
		if s.name == name {
			return b, nil
		}
	}
	return 0, fmt.Errorf("PCR bank %q is not known", name)
}

// Known reports whether this package can compute the bank's hash.
func (b Bank) Known() bool { _, ok := banks[b]; return ok }

// String gives the name tpm2-tools use: "sha256".
func (b Bank) String() string {
	if s, ok := banks[b]; ok {
		return s.name
	}
	return fmt.Sprintf("0x%04x", uint16(b))
}

// Size is the length of the bank's values in bytes; 0 for an unknown bank.
func (b Bank) Size() int { return banks[b].size }

// Hash returns the bank's hash of data. The bank must be known.
func (b Bank) Hash(data ...[]byte) []byte {
	h := banks[b].hash()
	for _, d := range data {
		h.Write(d)
	}
	return h.Sum(nil)
}

// Values holds one digest a bank: the values of one PCR, or what is to be
// extended into it.
type Values map[Bank][]byte

// Zero returns the value of a PCR that was never extended, for PCRs 0 to 16
// and 23 (TCG PC Client Platform TPM Profile, section 4.6).
func Zero(list []Bank) Values {
	v := Values{}
	for _, b := range list {
		v[b] = make([]byte, b.Size())
	}
	return v
}

// HashAll returns the digest of data in each bank of the list.
func HashAll(list []Bank, data []byte) Values {
	v := Values{}
	for _, b := range list {
		v[b] = b.Hash(data)
	}
	return v
}

// Banks lists the banks in ascending order of their TPM_ALG_ID.
func (v Values) Banks() []Bank { return slices.Sorted(maps.Keys(v)) }

// Extended returns the values after an extend with digests, as the TPM
// computes them: H(old ‖ digest). A bank missing in digests stays as it is.
func (v Values) Extended(digests Values) Values {
	out := Values{}
	for b, old := range v {
		if d, ok := digests[b]; ok {
			out[b] = b.Hash(old, d)
		} else {
			out[b] = slices.Clone(old)
		}
	}
	return out
}

// Equal reports whether both hold the same banks with the same values. Two
// empty Values are not equal: nothing proves nothing.
func (v Values) Equal(o Values) bool {
	if len(v) == 0 || len(v) != len(o) {
		return false
	}
	for b, x := range v {
		y, ok := o[b]
		if !ok || !bytes.Equal(x, y) {
			return false
		}
	}
	return true
}

// IsZero reports whether every bank is all zero.
func (v Values) IsZero() bool { return v.Equal(Zero(v.Banks())) }

// Strings gives the values in lower-case hex by the banks' names.
func (v Values) Strings() map[string]string {
	m := make(map[string]string, len(v))
	for b, x := range v {
		m[b.String()] = hex.EncodeToString(x)
	}
	return m
}

// String gives "sha1:… sha256:…" in the order of Banks.
func (v Values) String() string {
	var b bytes.Buffer
	for i, k := range v.Banks() {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s:%x", k, v[k])
	}
	return b.String()
}

// Brief gives one bank's value, SHA-256's where there is one, shortened to what
// a person compares.
func (v Values) Brief() string {
	list := v.Banks()
	if len(list) == 0 {
		return "empty"
	}
	b := list[0]
	if _, ok := v[SHA256]; ok {
		b = SHA256
	}
	return fmt.Sprintf("%s:%x…", b, v[b][:8])
}

// ParseValues is the inverse of Strings.
func ParseValues(m map[string]string) (Values, error) {
	v := Values{}
	for name, text := range m {
		b, err := ParseBank(name)
		if err != nil {
			return nil, err
		}
		x, err := hex.DecodeString(text)
		if err != nil || len(x) != b.Size() {
			return nil, fmt.Errorf("PCR value %q of bank %s is not %d bytes of hex", text, name, b.Size())
		}
		v[b] = x
	}
	return v, nil
}
