package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"iter"

	"github.com/sealift/sealift/measure/tpm"
)

// Match says where in the log a PCR's value was found.
type Match string

const (
	// MatchEnd: the PCR is at the value after the last batch.
	MatchEnd Match = "end"
	// MatchWithin: it is at an earlier value; what follows claims nothing.
	MatchWithin Match = "within"
	// MatchNone: it is at no value of the log.
	MatchNone Match = "none"
	// MatchUnknown: no values were given.
	MatchUnknown Match = "unknown"
)

// Report is what stored lines and PCR values say together. State, Cause,
// Reason and Acknowledged are the log's word on itself at the matched place.
type Report struct {
	Epoch            Hash
	Instance, BootID string
	ResetCount       uint32
	Number           uint64
	PCR              int
	Class            tpm.Class

	State        Name
	Cause        Cause
	Reason       string
	Acknowledged bool

	// Records and Batches count what was replayed, matched or not.
	Records, Batches uint64
	// Initial is the value the epoch claims to have begun over, Computed what
	// the PCR is after the last batch.
	Initial, Computed tpm.Values

	Match Match
	// MatchedSeq is the last record the PCR covers; ProvenFrom the first one
	// its value follows from: later than 1 after a foreign extend.
	MatchedSeq, ProvenFrom uint64
	// Unextended counts whole batches' records after MatchedSeq, Unended
	// records after the last whole batch.
	Unextended, Unended uint64
	// Banks gives for each given bank the last record its value covers; a bank
	// at no value of the log is missing.
	Banks map[tpm.Bank]uint64
}

// Proven says that the PCR's value follows from the log from its first record
// on, over an initial value of zero, with nothing lost on the way.
func (r *Report) Proven() bool {
	return (r.Match == MatchEnd || r.Match == MatchWithin) && r.ProvenFrom == 1 && r.Initial.IsZero() &&
		(r.State == Trusted || r.State == Recovered)
}

// Verify replays stored lines and looks for values in them; values may hold
// fewer banks than the log, or be nil. It is a function of its arguments:
// neither root nor a TPM is needed. An error (*LineError) means that the lines
// are not a log; a PCR that does not match is no error but MatchNone.
func Verify(lines iter.Seq2[[]byte, error], values tpm.Values) (*Report, error) {
	v := &verifier{replay: newReplay(), want: values, banks: map[tpm.Bank]uint64{}}
	for line, err := range lines {
		if err != nil {
			return nil, err
		}
		if err := v.take(line); err != nil {
			return nil, err
		}
	}
	if v.epoch == nil {
		return nil, errors.New("event log: no record is there to verify")
	}
	return v.report()
}

type verifier struct {
	*replay
	want  tpm.Values
	banks map[tpm.Bank]uint64
	base  uint64
	at    *Report
}

func (v *verifier) take(line []byte) error {
	first := v.epoch == nil
	s, err := v.feed(line)
	if err != nil {
		return err
	}
	if first && v.epoch != nil {
		v.base = 1
		v.compare(v.values)
	}
	if s != nil {
		if s.foreign {
			v.base = s.batch.First
		}
		v.compare(s.after)
	}
	return nil
}

// compare remembers the place when the wanted values are here.
func (v *verifier) compare(here tpm.Values) {
	all := len(v.want) > 0
	for b, w := range v.want {
		if x, ok := here[b]; ok && bytes.Equal(x, w) {
			v.banks[b] = v.seq
		} else {
			all = false
		}
	}
	if all {
		v.at = &Report{
			State: v.name, Cause: v.cause, Reason: v.reason, Acknowledged: v.acknowledged,
			MatchedSeq: v.seq, ProvenFrom: v.base, Match: MatchWithin,
		}
	}
}

func (v *verifier) report() (*Report, error) {
	initial, err := v.epoch.Initial.values()
	if err != nil {
		return nil, fmt.Errorf("event log: initial value: %w", err)
	}
	r := &Report{
		State: v.name, Cause: v.cause, Reason: v.reason, Acknowledged: v.acknowledged, Match: MatchNone, ProvenFrom: v.base,
	}
	switch {
	case v.at != nil:
		r = v.at
		r.Unextended = v.seq - r.MatchedSeq
		if r.Unextended == 0 {
			r.Match = MatchEnd
		}
	case len(v.want) == 0:
		r.Match = MatchUnknown
	}
	e := v.epoch
	r.Epoch, r.Instance, r.BootID, r.ResetCount, r.Number = v.id, e.Instance, e.BootID, e.ResetCount, e.Number
	r.PCR, r.Class = int(e.PCR), tpm.Class(e.Class)
	r.Records, r.Batches, r.Unended = v.seq, v.batches, uint64(v.pending())
	r.Initial, r.Computed, r.Banks = initial, v.values, v.banks
	return r, nil
}
