package verify_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"testing"

	"github.com/sealift/sealift/measure/tpm"
)

// chip is a TPM in memory: PCRs that are extended and quoted, and a clock. It
// obeys its owner, as a software TPM does.
type chip struct {
	mu      sync.Mutex
	banks   []tpm.Bank
	pcrs    map[int]tpm.Values
	reset   uint32
	restart uint32
	clock   uint64
}

func newChip() *chip {
	c := &chip{banks: []tpm.Bank{tpm.SHA1, tpm.SHA256}, reset: 3, clock: 1000}
	c.boot()
	return c
}

// boot resets the TPM.
func (c *chip) boot() {
	c.pcrs = map[int]tpm.Values{}
	for i := range 24 {
		c.pcrs[i] = tpm.Zero(c.banks)
	}
	c.reset, c.restart = c.reset+1, 0
}

// copied is the state as a file would hold it.
func (c *chip) copied() *chip {
	n := &chip{banks: c.banks, pcrs: map[int]tpm.Values{}, reset: c.reset, restart: c.restart, clock: c.clock}
	for i, v := range c.pcrs {
		n.pcrs[i] = v
	}
	return n
}

func (c *chip) Path() string { return "chip" }

func (c *chip) Class() tpm.Class { return tpm.Software }

func (c *chip) Banks() []tpm.Bank { return c.banks }

func (c *chip) Close() error { return nil }

func (c *chip) Properties(context.Context) (tpm.Properties, error) {
	return tpm.Properties{Manufacturer: "TEST", ResetCount: c.reset, RestartCount: c.restart, Safe: true}, nil
}

func (c *chip) ReadPCR(_ context.Context, pcr int) (tpm.Values, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pcrs[pcr], nil
}

func (c *chip) Extend(_ context.Context, pcr int, d tpm.Values) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pcrs[pcr] = c.pcrs[pcr].Extended(d)
	return nil
}

func be(n any) []byte {
	b, err := binary.Append(nil, binary.BigEndian, n)
	if err != nil {
		panic(err)
	}
	return b
}

func sized(b []byte) []byte { return append(be(uint16(len(b))), b...) }

// attKey is an attestation key outside of any TPM: what a test of the verifier
// needs, and what no CA would certify.
type attKey struct {
	*ecdsa.PrivateKey
	public []byte
	name   []byte
}

func newKey(t testing.TB, attrs uint32) *attKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyOf(t, k, attrs)
}

func keyOf(t testing.TB, k *ecdsa.PrivateKey, attrs uint32) *attKey {
	t.Helper()
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public := slices.Concat(be(uint16(0x23)), be(uint16(0xb)), be(attrs), sized(nil),
		be(uint16(0x10)), be(uint16(0x18)), be(uint16(0xb)), be(uint16(3)), be(uint16(0x10)), sized(point[1:33]), sized(point[33:]))
	d := sha256.Sum256(public)
	return &attKey{k, public, append([]byte{0, 0xb}, d[:]...)}
}

// attested is what a quote's maker chooses.
type attested struct {
	magic     uint32
	kind      uint16
	hierarchy uint32
	pcrs      []int
	extra     []byte
}

func quoting(extra []byte) attested {
	return attested{0xff544347, 0x8018, 0x4000000b, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14}, extra}
}

// quote makes a TPMS_ATTEST over the chip's PCRs, and signs it.
func (k *attKey) quote(t testing.TB, c *chip, q attested) (message, signature []byte) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock += 500
	signer := sha256.Sum256(append(be(q.hierarchy), k.name...))
	b := slices.Concat(be(q.magic), be(q.kind), sized(append([]byte{0, 0xb}, signer[:]...)), sized(q.extra),
		be(c.clock), be(c.reset), be(c.restart), []byte{1}, be(uint64(7)))
	h := sha256.New()
	b = append(b, be(uint32(len(c.banks)))...)
	for _, bank := range c.banks {
		var bits [3]byte
		for _, p := range q.pcrs {
			bits[p/8] |= 1 << (p % 8)
		}
		b = slices.Concat(b, be(uint16(bank)), []byte{3}, bits[:])
		for p := range 24 {
			if bits[p/8]&(1<<(p%8)) != 0 {
				h.Write(c.pcrs[p][bank])
			}
		}
	}
	b = append(b, sized(h.Sum(nil))...)
	return b, k.sign(t, b)
}

func (k *attKey) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	d := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, k.PrivateKey, d[:])
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(be(uint16(0x18)), be(uint16(0xb)), sized(r.FillBytes(make([]byte, 32))), sized(s.FillBytes(make([]byte, 32))))
}
