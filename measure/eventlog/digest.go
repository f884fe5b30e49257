package eventlog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Hash is a SHA-256 value, or another 32 bytes that one stands beside: a salt,
// a blind, a nonce. Its text is lower-case hex.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText gives lower-case hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText takes 64 digits of lower-case hex and nothing else.
func (h *Hash) UnmarshalText(text []byte) error {
	var out Hash
	if len(text) != 2*len(out) {
		return fmt.Errorf("%.80q is not %d bytes of hex", text, len(out))
	}
	if _, err := hex.Decode(out[:], text); err != nil {
		return fmt.Errorf("%q is not %d bytes of hex", text, len(out))
	}
	*h = out
	return nil
}

func random() (h Hash) {
	// crypto/rand.Read never returns an error: it ends the process instead.
	rand.Read(h[:])
	return h
}

// Domain tags: no two kinds of hash can be taken for one another.
const (
	tagEpoch  = "sealift-epoch-v1"
	tagTenant = "sealift-tenant-v1"
	tagSalted = "sealift-salted-v1"
	tagEvent  = "sealift-event-v1"
	tagBatch  = "sealift-batch-v1"
)

// The formulas below are docs/event-log.md, section "Hashes". Integers are
// big-endian; lp(x) is the 4-byte length of x and x.

func lp(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// epochID = H(tag ‖ lp(instance) ‖ lp(boot id) ‖ resetCount ‖ number ‖ nonce).
func epochID(instance, boot string, resetCount uint32, number uint64, nonce Hash) Hash {
	b := []byte(tagEpoch)
	b = lp(b, instance)
	b = lp(b, boot)
	b = binary.BigEndian.AppendUint32(b, resetCount)
	b = binary.BigEndian.AppendUint64(b, number)
	b = append(b, nonce[:]...)
	return sha256.Sum256(b)
}

// Pseudonym is what stands for a tenant (a containerd namespace) in an epoch:
// H(tag ‖ epoch ‖ blind ‖ lp(namespace)). Without the blind nobody can test a
// guess of the name.
func Pseudonym(epoch, blind Hash, namespace string) Hash {
	b := []byte(tagTenant)
	b = append(b, epoch[:]...)
	b = append(b, blind[:]...)
	b = lp(b, namespace)
	return sha256.Sum256(b)
}

// Commitment binds the record's exact bytes: H(salt ‖ record).
func Commitment(salt Hash, record []byte) Hash {
	h := sha256.New()
	h.Write(salt[:])
	h.Write(record)
	return Hash(h.Sum(nil))
}

// SaltedHash is how a secret value appears in a record:
// H(tag ‖ salt ‖ lp(name) ‖ value).
func SaltedHash(salt Hash, name string, value []byte) Hash {
	b := []byte(tagSalted)
	b = append(b, salt[:]...)
	b = lp(b, name)
	h := sha256.New()
	h.Write(b)
	h.Write(value)
	return Hash(h.Sum(nil))
}

// ItemDigest is the digest of one item of the log:
// H(tag ‖ epoch ‖ seq ‖ pseudonym ‖ commitment), 120 bytes under the hash.
func ItemDigest(epoch Hash, seq uint64, pseudonym, commitment Hash) Hash {
	b := make([]byte, 0, 120)
	b = append(b, tagEvent...)
	b = append(b, epoch[:]...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, pseudonym[:]...)
	b = append(b, commitment[:]...)
	return sha256.Sum256(b)
}

// TagID is the taggedEventID of a batch: "sealift" with room for a version.
const TagID uint32 = 0x5ea11f01

// EventData is what a batch's extend is the hash of, in each bank: a
// TCG_PCClientTaggedEvent (TCG PC Client Platform Firmware Profile, section
// 10.4.2.1; little-endian) around the batch bytes
// tag ‖ epoch ‖ first seq ‖ count ‖ item digests.
func EventData(epoch Hash, first uint64, items []Hash) []byte {
	size := len(tagBatch) + len(epoch) + 8 + 4 + 32*len(items)
	b := make([]byte, 0, 8+size)
	b = binary.LittleEndian.AppendUint32(b, TagID)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	b = append(b, tagBatch...)
	b = append(b, epoch[:]...)
	b = binary.BigEndian.AppendUint64(b, first)
	b = binary.BigEndian.AppendUint32(b, uint32(len(items)))
	for _, d := range items {
		b = append(b, d[:]...)
	}
	return b
}
