package eventlog

import (
	"errors"
	"fmt"

	"github.com/sealift/sealift/measure/tpm"
)

// Replay follows a log's lines for a reader who holds nothing but them, and may
// have read the log's beginning at another time. The zero value is not usable:
// NewReplay or ResumeReplay makes one. It is not safe for concurrent use.
type Replay struct {
	r    *replay
	from uint64
}

// NewReplay begins at a log's first line.
func NewReplay() *Replay { return &Replay{r: newReplay(), from: 1} }

// Start is what an epoch's first record says (docs/event-log.md, log-epoch).
type Start struct {
	Epoch            Hash
	Instance, BootID string
	ResetCount       uint32
	Number           uint64
	PCR              int
	Initial          tpm.Values
	State            Name
	Cause            Cause
	Reason           string
	// Previous is the old head, nil where there was none.
	Previous *Previous
	Class    tpm.Class
}

// Previous names the end of the epoch before.
type Previous struct {
	Epoch            Hash
	Instance, BootID string
	ResetCount       uint32
	Seq              uint64
}

// Standing is what the log says of itself at one place.
type Standing struct {
	State        Name
	Cause        Cause
	Reason       string
	Acknowledged bool
	// ProvenFrom is the first record the PCR's value follows from: later than 1
	// after a foreign extend.
	ProvenFrom uint64
}

// Entry is one item of a batch. Record is nil, and Blind zero, where it is closed.
type Entry struct {
	Seq       uint64
	Pseudonym Hash
	Blind     Hash
	Record    *Record
}

// Step is one whole batch that followed from what came before it.
type Step struct {
	First, Last uint64
	After       tpm.Values
	// Foreign says that the value before it did not follow, and that its first
	// record owns up to that.
	Foreign bool
	Entries []Entry
	// Standing is the log's word on itself after the batch.
	Standing Standing

	worse uint64
}

// Start is nil until the first record was fed; a resumed replay has it at once.
func (r *Replay) Start() *Start {
	b := r.r.epoch
	if b == nil {
		return nil
	}
	initial, err := b.Initial.values()
	if err != nil {
		return nil // begin has refused it
	}
	s := &Start{
		Epoch: r.r.id, Instance: b.Instance, BootID: b.BootID, ResetCount: b.ResetCount, Number: b.Number, PCR: int(b.PCR),
		Initial: initial, State: b.State, Cause: b.Cause, Reason: b.Reason, Class: tpm.Class(b.Class),
	}
	if p := b.Previous; p != nil {
		s.Previous = &Previous{p.Epoch, p.Instance, p.BootID, p.ResetCount, p.Seq}
	}
	return s
}

// Standing is the log's word on itself so far.
func (r *Replay) Standing() Standing {
	return Standing{r.r.name, r.r.cause, r.r.reason, r.r.acknowledged, r.from}
}

// Pending counts items that no batch line has ended yet: their batch is under
// way, or was cut off.
func (r *Replay) Pending() int { return r.r.pending() }

// Feed takes the next line and gives the batch it ended, if it ended one. An
// error (*LineError) means that the lines are no log.
func (r *Replay) Feed(line []byte) (*Step, error) {
	l, err := DecodeLine(line)
	if err != nil {
		r.r.line++
		return nil, &LineError{Line: r.r.line, Err: err}
	}
	return r.FeedLine(l, len(line))
}

// FeedLine is Feed for a line that DecodeLine took, on another core perhaps; size
// is its text's length.
func (r *Replay) FeedLine(l *Line, size int) (*Step, error) {
	st, err := r.r.feedLine(l, size)
	if st == nil || err != nil {
		return nil, err
	}
	if st.foreign {
		r.from = st.batch.First
	}
	out := &Step{
		First: st.batch.First, Last: st.batch.Last(), After: st.after, Foreign: st.foreign, Standing: r.Standing(), worse: r.r.worse,
		Entries: make([]Entry, len(st.items)),
	}
	for i, it := range st.items {
		out.Entries[i] = Entry{st.batch.First + uint64(i), it.pseudonym, it.blind, it.record}
	}
	return out, nil
}

// Mark is a place between two batches at which a replay can be resumed. It is
// whoever keeps it who vouches for it.
type Mark struct {
	// Begin is the record the epoch began with, as it was stored.
	Begin      Raw    `json:"begin"`
	Epoch      Hash   `json:"epoch"`
	Seq        uint64 `json:"seq"`
	Values     banks  `json:"values"`
	State      Name   `json:"state"`
	Cause      Cause  `json:"cause"`
	Reason     string `json:"reason"`
	Word       bool   `json:"word"`
	Worse      uint64 `json:"worse"`
	ProvenFrom uint64 `json:"provenFrom"`
	// Blinds are the namespaces' that were open to this reader.
	Blinds map[string]Hash `json:"blinds"`
}

// Value is the PCR at the mark.
func (m *Mark) Value() (tpm.Values, error) { return m.Values.values() }

// Mark gives the place after a step of this replay. blinds are those of the
// entries up to there.
func (r *Replay) Mark(s *Step, blinds map[string]Hash) Mark {
	return Mark{
		Begin: r.r.begun, Epoch: r.r.id, Seq: s.Last, Values: toBanks(s.After), State: s.Standing.State, Cause: s.Standing.Cause,
		Reason: s.Standing.Reason, Word: s.Standing.Acknowledged, Worse: s.worse, ProvenFrom: s.Standing.ProvenFrom, Blinds: blinds,
	}
}

// ResumeReplay goes on from a mark.
func ResumeReplay(m Mark) (*Replay, error) {
	var b epochBody
	if err := Unmarshal(m.Begin, &b); err != nil {
		return nil, fmt.Errorf("mark: %w", err)
	}
	if b.Version != FormatVersion || b.id() != m.Epoch {
		return nil, errors.New("mark: its epoch is not made of the record it began with")
	}
	if _, err := b.Initial.values(); err != nil {
		return nil, fmt.Errorf("mark: initial value: %w", err)
	}
	v, err := m.Values.values()
	if err != nil {
		return nil, fmt.Errorf("mark: %w", err)
	}
	if m.Seq == 0 || m.ProvenFrom == 0 || m.ProvenFrom > m.Seq {
		return nil, fmt.Errorf("mark: record %d, proven from %d", m.Seq, m.ProvenFrom)
	}
	x := newReplay()
	x.epoch, x.begun, x.id, x.values, x.seq = &b, m.Begin, m.Epoch, v, m.Seq
	x.name, x.cause, x.reason, x.acknowledged, x.worse = m.State, m.Cause, m.Reason, m.Word, m.Worse
	for ns, blind := range m.Blinds {
		x.blinds[ns] = blind
	}
	return &Replay{x, m.ProvenFrom}, nil
}
