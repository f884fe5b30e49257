// Package bootlog reads the log that firmware, boot loader and kernel leave of
// what they measured: a crypto-agile TCG log (TCG PC Client Platform Firmware
// Profile, section 10), as Linux shows it in binary_bios_measurements.
//
// A log is a claim. Only the digests are what a PCR holds; an event's type and
// data are whatever somebody wrote there, so they count only where the digest
// is recomputed from them (Event.Bound) or was compared with something else.
package bootlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sealift/sealift/internal/cursor"
	"github.com/sealift/sealift/measure/tpm"
)

// Bounds of what Parse takes.
const (
	MaxSize   = 4 << 20
	maxEvents = 1 << 16
	maxBanks  = 8
	maxDigest = 64
)

// Log is a parsed log.
type Log struct {
	// Banks are those this program can compute, in the log's order. Others
	// stands for the rest: a quote that selects one of them cannot be replayed.
	Banks  []tpm.Bank
	Others []uint16
	Events []Event
	// Locality is the one that the TPM was started from, 0 where the log does
	// not say: PCR 0 begins with it (PFP, section 3.3.3).
	Locality byte
}

// Event is one event of the log.
type Event struct {
	PCR     int
	Type    Type
	Digests tpm.Values
	Data    []byte
	// Bound says that the digest in every bank was recomputed from Data: what
	// Data says is then as good as the PCR.
	Bound bool
}

// Error says where a log is malformed.
type Error struct {
	Offset, Event int
	Err           error
}

func (e *Error) Error() string {
	return fmt.Sprintf("boot log, event %d at byte %d: %v", e.Event, e.Offset, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Parse reads a whole log; bytes that are no event are an error.
func Parse(b []byte) (*Log, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("boot log: %d bytes are more than %d", len(b), MaxSize)
	}
	r := cursor.Over(b)
	l := &Log{}
	sizes, err := l.header(r)
	if err != nil {
		return nil, &Error{r.At, 1, err}
	}
	for n := 2; !r.End(); n++ {
		start := r.At
		if n > maxEvents {
			return nil, &Error{start, n, fmt.Errorf("more than %d events", maxEvents)}
		}
		if err := l.event(r, sizes); err != nil {
			return nil, &Error{start, n, err}
		}
	}
	return l, nil
}

var specID = append([]byte("Spec ID Event03"), 0)

// header reads the first event, which has the form of TPM 1.2's.
func (l *Log) header(r *cursor.Cursor) (map[uint16]int, error) {
	head, err := r.Take(8 + 20 + 4)
	if err != nil {
		return nil, err
	}
	if pcr, kind := binary.LittleEndian.Uint32(head), Type(binary.LittleEndian.Uint32(head[4:])); pcr != 0 || kind != NoAction {
		return nil, errors.New("is not a crypto-agile log's header")
	}
	body, err := r.Take(int(binary.LittleEndian.Uint32(head[28:])))
	if err != nil {
		return nil, err
	}
	h := cursor.Over(body)
	if sig, err := h.Take(len(specID)); err != nil || !bytes.Equal(sig, specID) {
		return nil, errors.New("is not a crypto-agile log's header: only TPM 2.0 logs are read")
	}
	if _, err := h.Take(4 + 4); err != nil { // platform class, versions, size of UINTN
		return nil, err
	}
	n, err := h.Uint32()
	if err != nil {
		return nil, err
	}
	if n == 0 || n > maxBanks {
		return nil, fmt.Errorf("%d banks", n)
	}
	sizes := map[uint16]int{}
	for range n {
		id, err := h.Uint16()
		if err != nil {
			return nil, err
		}
		size, err := h.Uint16()
		if err != nil {
			return nil, err
		}
		bank := tpm.Bank(id)
		if _, dup := sizes[id]; dup || size == 0 || size > maxDigest || (bank.Known() && int(size) != bank.Size()) {
			return nil, fmt.Errorf("bank %s with digests of %d bytes", bank, size)
		}
		sizes[id] = int(size)
		if bank.Known() {
			l.Banks = append(l.Banks, bank)
		} else {
			l.Others = append(l.Others, id)
		}
	}
	vendor, err := h.Take(1)
	if err != nil {
		return nil, err
	}
	if _, err := h.Take(int(vendor[0])); err != nil || !h.End() {
		return nil, errors.New("header does not end where it says")
	}
	return sizes, nil
}

// event reads a TCG_PCR_EVENT2.
func (l *Log) event(r *cursor.Cursor, sizes map[uint16]int) error {
	pcr, err := r.Uint32()
	if err != nil {
		return err
	}
	if pcr > 23 {
		return fmt.Errorf("PCR %d", pcr)
	}
	kind, err := r.Uint32()
	if err != nil {
		return err
	}
	n, err := r.Uint32()
	if err != nil {
		return err
	}
	if int(n) != len(sizes) {
		return fmt.Errorf("%d digests, the header names %d banks", n, len(sizes))
	}
	e := Event{PCR: int(pcr), Type: Type(kind), Digests: tpm.Values{}}
	seen := map[uint16]bool{}
	for range n {
		id, err := r.Uint16()
		if err != nil {
			return err
		}
		size, ok := sizes[id]
		if !ok || seen[id] {
			return fmt.Errorf("digest of bank 0x%04x, which the header does not name, or twice", id)
		}
		seen[id] = true
		d, err := r.Take(size)
		if err != nil {
			return err
		}
		if b := tpm.Bank(id); b.Known() {
			e.Digests[b] = d
		}
	}
	size, err := r.Uint32()
	if err != nil {
		return err
	}
	if e.Data, err = r.Take(int(size)); err != nil {
		return err
	}
	return l.add(e)
}

var startupLocality = append([]byte("StartupLocality"), 0)

// add takes an event in; EV_NO_ACTION is extended nowhere.
func (l *Log) add(e Event) error {
	if e.Type == NoAction {
		if rest, ok := bytes.CutPrefix(e.Data, startupLocality); ok && e.PCR == 0 {
			if len(rest) != 1 || (rest[0] != 0 && rest[0] != 3 && rest[0] != 4) {
				return fmt.Errorf("startup locality % x", rest)
			}
			for _, earlier := range l.Events {
				if earlier.PCR == 0 && earlier.Type != NoAction {
					return errors.New("startup locality after PCR 0 was extended")
				}
			}
			l.Locality = rest[0]
		}
	} else {
		e.Bound = e.bound()
	}
	l.Events = append(l.Events, e)
	return nil
}

// Replay computes PCRs 0 to 16 and 23 in the given banks, from zero (PCR 0: from
// the startup locality). A bank that the log does not have stays as it began:
// whoever compares with a quote finds out.
func (l *Log) Replay(banks []tpm.Bank) map[int]tpm.Values {
	out := map[int]tpm.Values{}
	for pcr := range 24 {
		if pcr > 16 && pcr < 23 {
			continue
		}
		out[pcr] = tpm.Zero(banks)
	}
	for _, v := range out[0] {
		v[len(v)-1] = l.Locality
	}
	for _, e := range l.Events {
		if v, ok := out[e.PCR]; ok && e.Type != NoAction {
			out[e.PCR] = v.Extended(e.Digests)
		}
	}
	return out
}
