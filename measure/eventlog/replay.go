package eventlog

import (
	"fmt"

	"github.com/sealift/sealift/measure/tpm"
)

// LineError says which stored line is not what it should be.
type LineError struct {
	// Line counts from 1 within what was read.
	Line int
	// Seq is the item's or batch's number, 0 when it is not known.
	Seq uint64
	Err error
}

func (e *LineError) Error() string {
	if e.Seq == 0 {
		return fmt.Sprintf("log line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("log line %d (record %d): %v", e.Line, e.Seq, e.Err)
}

func (e *LineError) Unwrap() error { return e.Err }

// step is one batch that was replayed.
type step struct {
	batch         *Batch
	before, after tpm.Values
	data          []byte
	// foreign says that before does not follow from the batches ahead.
	foreign bool
	items   []openItem
}

// replay computes the PCR from stored lines alone. It is fed line by line and
// holds no more than the open batch, so that a log of any length can be checked.
type replay struct {
	epoch *epochBody
	// begun is epoch as it was stored.
	begun Raw
	id    Hash
	// values is what the PCR is after the last whole batch.
	values  tpm.Values
	seq     uint64
	batches uint64
	items   int
	// The state as the log's own records tell it; worse is the record that
	// last made it so.
	name         Name
	cause        Cause
	reason       string
	acknowledged bool
	worse        uint64
	blinds       map[string]Hash
	// written counts the stored bytes of each namespace's items.
	written       map[string]int64
	recoveredTail map[Hash]bool

	open []openItem
	line int
}

type openItem struct {
	digest    Hash
	pseudonym Hash
	record    *Record
	// blind is set with the record only.
	blind Hash
}

func newReplay() *replay {
	return &replay{blinds: map[string]Hash{}, written: map[string]int64{}, recoveredTail: map[Hash]bool{}}
}

// pending says how many items were read that no batch line has closed yet.
func (r *replay) pending() int { return len(r.open) }

// feed takes the next line. It returns a step when the line ended a batch.
// After an error the replay stands where it stood before the open batch.
func (r *replay) feed(text []byte) (*step, error) {
	l, err := DecodeLine(text)
	if err != nil {
		r.line++
		return nil, &LineError{Line: r.line, Err: err}
	}
	return r.feedLine(l, len(text))
}

// feedLine is feed for a line that DecodeLine took; size is its text's length.
func (r *replay) feedLine(l *Line, size int) (*step, error) {
	r.line++
	switch {
	case l.Item != nil:
		if err := r.item(l.Item, size); err != nil {
			return nil, &LineError{r.line, l.Item.Seq, err}
		}
	case l.Closed != nil:
		if err := r.place(l.Closed.Epoch, l.Closed.Seq); err != nil {
			return nil, &LineError{r.line, l.Closed.Seq, err}
		}
		r.open = append(r.open, openItem{digest: l.Closed.Digest(), pseudonym: l.Closed.Pseudonym})
	case l.Batch != nil:
		s, err := r.batch(l.Batch)
		if err != nil {
			return nil, &LineError{r.line, l.Batch.First, err}
		}
		return s, nil
	}
	return nil, nil
}

// place checks that an item is the one that has to come now.
func (r *replay) place(epoch Hash, seq uint64) error {
	if want := r.seq + uint64(len(r.open)) + 1; seq != want {
		return fmt.Errorf("record %d stands where %d belongs", seq, want)
	}
	if r.epoch == nil {
		return fmt.Errorf("the first record is not a %s", typeEpoch)
	}
	if epoch != r.id {
		return fmt.Errorf("record is of epoch %s, not %s", epoch, r.id)
	}
	return nil
}

func (r *replay) item(i *Item, size int) error {
	rec, err := i.Open()
	if err != nil {
		return err
	}
	if r.epoch == nil && rec.Type == typeEpoch {
		if err := r.begin(i, rec); err != nil {
			return err
		}
	} else if rec.Type == typeEpoch {
		return fmt.Errorf("a second %s", typeEpoch)
	}
	if err := r.place(i.Epoch, i.Seq); err != nil {
		return err
	}
	if b, ok := r.blinds[rec.Namespace]; ok && b != i.Blind {
		return fmt.Errorf("namespace %q has two pseudonyms", rec.Namespace)
	}
	r.blinds[rec.Namespace] = i.Blind
	r.written[rec.Namespace] += int64(size)
	c := Closed{i.Epoch, i.Seq, Pseudonym(i.Epoch, i.Blind, rec.Namespace), Commitment(i.Salt, i.Record)}
	r.open = append(r.open, openItem{c.Digest(), c.Pseudonym, rec, i.Blind})
	return nil
}

func (r *replay) begin(i *Item, rec *Record) error {
	var b epochBody
	if err := Unmarshal(rec.Body, &b); err != nil {
		return err
	}
	if b.Version != FormatVersion {
		return fmt.Errorf("log of format version %d; this program reads %d", b.Version, FormatVersion)
	}
	if b.id() != i.Epoch {
		return fmt.Errorf("epoch %s is not made of what its first record says", i.Epoch)
	}
	v, err := b.Initial.values()
	if err != nil {
		return err
	}
	r.epoch, r.begun, r.id, r.values = &b, rec.Body, i.Epoch, v
	r.name, r.cause, r.reason = b.State, b.Cause, b.Reason
	return nil
}

func (r *replay) batch(b *Batch) (*step, error) {
	if r.epoch == nil || b.Epoch != r.id {
		return nil, fmt.Errorf("batch of epoch %s, not %s", b.Epoch, r.id)
	}
	if b.First != r.seq+1 || int(b.Count) != len(r.open) || b.Count == 0 {
		return nil, fmt.Errorf("batch of %d records from %d stands after %d records from %d", b.Count, b.First, len(r.open), r.seq+1)
	}
	before, err := b.Before.values()
	if err != nil {
		return nil, err
	}
	after, err := b.After.values()
	if err != nil {
		return nil, err
	}
	s := &step{batch: b, before: before, after: after, items: r.open}
	if !before.Equal(r.values) {
		if err := foreignAllowed(r.open[0].record, r.values, before); err != nil {
			return nil, err
		}
		s.foreign = true
	}
	digests := make([]Hash, len(r.open))
	for i, o := range r.open {
		digests[i] = o.digest
	}
	s.data = EventData(r.id, b.First, digests)
	if !before.Extended(tpm.HashAll(before.Banks(), s.data)).Equal(after) {
		return nil, fmt.Errorf("batch of records %d to %d does not lead to the value after it", b.First, b.Last())
	}
	for i, o := range r.open {
		if o.record != nil {
			if err := r.apply(o.record, b.First+uint64(i)); err != nil {
				return nil, err
			}
		}
	}
	r.values, r.seq, r.open = after, b.Last(), nil
	r.batches++
	r.items += int(b.Count)
	return s, nil
}

// foreignAllowed accepts a jump of the PCR only where the batch's first record
// owns up to it.
func foreignAllowed(rec *Record, expected, found tpm.Values) error {
	if rec == nil || rec.Type != typeForeign {
		return fmt.Errorf("PCR jumps from %s to %s and no record says so", expected.Brief(), found.Brief())
	}
	var b foreignBody
	if err := Unmarshal(rec.Body, &b); err != nil {
		return err
	}
	e, err := b.Expected.values()
	if err != nil {
		return err
	}
	f, err := b.Found.values()
	if err != nil {
		return err
	}
	if !e.Equal(expected) || !f.Equal(found) {
		return fmt.Errorf("%s names other values than the log has", typeForeign)
	}
	return nil
}

// apply follows the state through the log's own records.
func (r *replay) apply(rec *Record, seq uint64) error {
	switch rec.Type {
	case typeRecovered:
		var b recoveredBody
		if err := Unmarshal(rec.Body, &b); err != nil {
			return err
		}
		r.recoveredTail[b.SHA256] = true
		r.note(Recovered, TailUnextended, recoveredReason(b), seq)
	case typeForeign:
		r.note(Foreign, ForeignExtend, foreignReason, seq)
	case typeAcknowledged:
		var b acknowledgedBody
		if err := Unmarshal(rec.Body, &b); err != nil {
			return err
		}
		if b.State == r.name && b.Cause == r.cause && b.Seen >= r.worse {
			r.acknowledged = true
		}
	}
	return nil
}

const foreignReason = "somebody else extended the PCR; what was recorded before can no longer be proven by it"

func recoveredReason(b recoveredBody) string {
	return fmt.Sprintf("%d lines were written and never extended; they are kept in %s and claim nothing", b.Lines, b.File)
}

// note lets a state get worse only. A foreign extend needs a new word from the
// operator each time.
func (r *replay) note(n Name, c Cause, reason string, seq uint64) {
	switch {
	case n == Foreign && (r.name == Trusted || r.name == Recovered || r.name == Foreign || r.name == TPMReset):
		r.name, r.cause, r.reason, r.acknowledged, r.worse = n, c, reason, false, seq
	case n == Foreign:
		// History is lost already; what was said about that no longer suffices.
		r.acknowledged, r.worse = false, seq
	case n == Recovered && r.name == Trusted:
		r.name, r.cause, r.reason = n, c, reason
	}
}
