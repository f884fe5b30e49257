// Package imalog reads the kernel's integrity measurement log, as Linux shows it
// in binary_runtime_measurements, and replays it to PCR 10.
package imalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/sealift/sealift/internal/cursor"
	"github.com/sealift/sealift/measure/tpm"
)

// PCR is where IMA extends what it measures (CONFIG_IMA_MEASURE_PCR_IDX).
const PCR = 10

// Bounds of what Parse takes.
const (
	MaxSize     = 64 << 20
	maxEntries  = 1 << 20
	maxTemplate = 4 << 20
	maxField    = 4 << 20
)

// Entry is one measurement.
type Entry struct {
	Template string
	// Algorithm and Digest are the file's, e.g. "sha256". For ima-ngv2 a prefix
	// says what was hashed: "verity:sha256".
	Algorithm string
	Digest    []byte
	// Name is a path as the process that was measured saw it, or what IMA calls
	// its own entries (boot_aggregate, kexec-cmdline).
	Name string
	// Violation is set where the file could not be measured soundly: it was open
	// for writing. Its digest says nothing, and its name is under no hash.
	Violation bool
	// Buffer is what an ima-buf entry holds, Signature what an ima-sig entry does.
	Buffer, Signature []byte

	data []byte // what the template digest is over
}

// Text is the digest as trust policies are written: "sha256:9c1b…".
func (e *Entry) Text() string { return fmt.Sprintf("%s:%x", e.Algorithm, e.Digest) }

// IsBuffer says that the entry is of bytes the kernel was given, and no file: the
// template's name is under no digest, and a file's entry could bear it.
func (e *Entry) IsBuffer() bool {
	b, err := tpm.ParseBank(e.Algorithm)
	return err == nil && e.Template == "ima-buf" && !e.Violation && !strings.HasPrefix(e.Name, "/") && bytes.Equal(b.Hash(e.Buffer), e.Digest)
}

// Error says where a log is malformed.
type Error struct {
	Offset, Entry int
	Err           error
}

func (e *Error) Error() string {
	return fmt.Sprintf("IMA log, entry %d at byte %d: %v", e.Entry, e.Offset, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Parse reads a whole log, as little-endian machines write it. Templates
// ima-ng, ima-ngv2, ima-sig, ima-sigv2 and ima-buf are read; the first one,
// "ima", is refused: its digests are SHA-1 only.
func Parse(b []byte) ([]Entry, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("IMA log: %d bytes are more than %d", len(b), MaxSize)
	}
	r := cursor.Over(b)
	var out []Entry
	for !r.End() {
		start := r.At
		e, err := entry(r)
		if err == nil && len(out) == maxEntries {
			err = fmt.Errorf("more than %d entries", maxEntries)
		}
		if err != nil {
			return nil, &Error{start, len(out) + 1, err}
		}
		out = append(out, *e)
	}
	return out, nil
}

func entry(r *cursor.Cursor) (*Entry, error) {
	head, err := r.Take(4 + 20)
	if err != nil {
		return nil, err
	}
	if pcr := binary.LittleEndian.Uint32(head); pcr != PCR {
		return nil, fmt.Errorf("PCR %d, not %d", pcr, PCR)
	}
	name, err := r.Sized(64)
	if err != nil {
		return nil, err
	}
	e := &Entry{Template: string(name)}
	switch e.Template {
	case "ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-buf":
	default:
		return nil, fmt.Errorf("template %q is not read\nhint: boot with ima_template=ima-ng or ima-sig", name)
	}
	if e.data, err = r.Sized(maxTemplate); err != nil {
		return nil, err
	}
	digest := head[4:]
	e.Violation = bytes.Equal(digest, make([]byte, len(digest)))
	if !e.Violation && !bytes.Equal(digest, tpm.SHA1.Hash(e.data)) {
		return nil, errors.New("its digest is not that of its template's data")
	}
	return e, e.fields()
}

// fields takes the template's data apart.
func (e *Entry) fields() error {
	f := cursor.Over(e.data)
	d, err := f.Sized(maxField)
	if err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	algorithm, digest, ok := bytes.Cut(d, []byte{':', 0})
	if !ok {
		return errors.New("digest names no algorithm")
	}
	e.Algorithm, e.Digest = string(algorithm), digest
	if kind, hash, ok := strings.Cut(e.Algorithm, ":"); ok && kind == "ima" {
		e.Algorithm = hash // ima-ngv2's way to say that it is the file's own
	}
	n, err := f.Sized(maxField)
	if err != nil {
		return fmt.Errorf("name: %w", err)
	}
	name, ok := bytes.CutSuffix(n, []byte{0})
	if !ok || bytes.IndexByte(name, 0) >= 0 {
		return errors.New("name does not end with its only zero")
	}
	e.Name = string(name)
	switch e.Template {
	case "ima-sig", "ima-sigv2":
		e.Signature, err = f.Sized(maxField)
	case "ima-buf":
		e.Buffer, err = f.Sized(maxField)
	}
	if err != nil {
		return fmt.Errorf("last field: %w", err)
	}
	if !f.End() {
		return errors.New("bytes after the template's last field")
	}
	return nil
}

// extended gives what the kernel extends for the entry in a bank. Before Linux
// 5.8, and for a hash that the kernel had not loaded, that is the SHA-1 digest
// with zeroes behind it: padded.
func (e *Entry) extended(b tpm.Bank, padded bool) []byte {
	if e.Violation {
		return bytes.Repeat([]byte{0xff}, b.Size())
	}
	if !padded || b == tpm.SHA1 {
		return b.Hash(e.data)
	}
	return append(tpm.SHA1.Hash(e.data), make([]byte, b.Size()-tpm.SHA1.Size())...)[:b.Size()]
}

// Tail replays entries over zero and gives PCR 10 in one bank after each of the
// last keep entries, oldest first, beginning with the value ahead of them: at
// most keep+1 values.
func Tail(entries []Entry, b tpm.Bank, padded bool, keep int) [][]byte {
	v := make([]byte, b.Size())
	out := make([][]byte, 0, min(keep, len(entries))+1)
	for i := range entries {
		if len(entries)-i <= keep {
			out = append(out, v)
		}
		v = b.Hash(v, entries[i].extended(b, padded))
	}
	return append(out, v)
}

// AggregateName is the entry that IMA begins with.
const AggregateName = "boot_aggregate"

// Aggregate computes the digest that boot_aggregate must have over quoted boot
// PCRs: the hash of PCRs 0 to 9 in the bank of that hash; with SHA-1, of 0 to 7
// (ima_calc_boot_aggregate_tfm, since Linux 5.8). So PCRs 8 and 9, which root can
// extend too, are held to what they were when the kernel started.
func Aggregate(pcrs map[int]tpm.Values, b tpm.Bank) []byte {
	last := 9
	if b == tpm.SHA1 {
		last = 7
	}
	var all [][]byte
	for i := range last + 1 {
		all = append(all, pcrs[i][b])
	}
	return b.Hash(all...)
}
