package verify

import (
	"fmt"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
)

// Checkpoint is what a verifier keeps of a verdict, so that the next one needs
// only the log's new lines, and so that a host cannot go back behind what it
// once proved. It is the verifier's own file: nothing in it is signed, and
// whoever can write it decides the next verdict.
type Checkpoint struct {
	Version   uint32 `json:"version"`
	Host      string `json:"host"`
	Key       []byte `json:"key"`
	Namespace string `json:"namespace"`
	Container string `json:"container"`
	// Time is the verifier's clock at the verdict.
	Time eventlog.Time `json:"time"`
	// Clock (ms), Reset and Restart are the quote's.
	Clock   uint64 `json:"clock"`
	Reset   uint32 `json:"reset"`
	Restart uint32 `json:"restart"`
	// Seen is the last record that any line held, proven or not.
	Seen  uint64        `json:"seen"`
	Mark  eventlog.Mark `json:"mark"`
	Facts *facts        `json:"facts"`
	// Lists are the numbers of the newest revocation lists, by CA.
	Lists map[string]string `json:"lists"`
}

const checkpointVersion = 1

// Encode gives the checkpoint's text.
func (c *Checkpoint) Encode() ([]byte, error) {
	b, err := eventlog.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return b, nil
}

// DecodeCheckpoint reads it back.
func DecodeCheckpoint(b []byte) (*Checkpoint, error) {
	var c Checkpoint
	if err := eventlog.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("state: %w\nhint: remove the file to begin anew; a whole log is needed then", err)
	}
	if c.Version != checkpointVersion || c.Facts == nil {
		return nil, fmt.Errorf("state: of version %d; this program reads %d\nhint: remove the file to begin anew; a whole log is needed then", c.Version, checkpointVersion)
	}
	return &c, nil
}

// next makes the checkpoint of the place that was found.
func (a *appraisal) next() *Checkpoint {
	if a.found == nil || a.trail == nil || a.trail.facts.Seq == 0 {
		return nil
	}
	f := a.trail.facts
	c := &Checkpoint{
		Version: checkpointVersion, Host: a.v.Host, Key: a.key.name, Namespace: a.e.Log.Namespace, Container: a.e.Log.Container,
		Time: eventlog.Time{Time: a.in.Now}, Clock: a.quote.clock, Reset: a.quote.reset, Restart: a.quote.restart,
		Seen: a.trail.last, Facts: f, Lists: a.lists,
	}
	switch {
	case a.found.step != nil:
		c.Mark = a.trail.replay.Mark(a.found.step, f.Blind)
	case a.prior != nil && a.e.Log.From > 1:
		c.Mark = a.prior.Mark
	default:
		return nil
	}
	return c
}

// past compares the quote with what this verifier saw before.
func (a *appraisal) past() {
	s := a.trail.replay.Start()
	if a.quote.reset != s.ResetCount {
		a.all("tpm-reset", "", "the TPM was reset since this log began: it counts %d resets, the log %d", a.quote.reset, s.ResetCount)
	}
	p := a.prior
	if p == nil {
		return
	}
	same := p.Mark.Epoch == s.Epoch
	switch {
	case a.quote.reset < p.Reset:
		a.all("tpm-went-back", "a TPM never counts back: a software TPM's state was copied or restored, or this is another TPM", "the TPM counts %d resets; it counted %d before", a.quote.reset, p.Reset)
	case a.quote.reset == p.Reset && a.quote.restart < p.Restart:
		a.all("tpm-went-back", "a TPM never counts back: a software TPM's state was copied or restored", "the TPM counts %d restarts; it counted %d before", a.quote.restart, p.Restart)
	case a.quote.reset == p.Reset && a.quote.clock < p.Clock:
		a.all("tpm-clock-back", "an old quote was sent again, or a software TPM's state was restored", "the TPM's clock stands at %v; it stood at %v before", millis(a.quote.clock), millis(p.Clock))
	case a.quote.reset == p.Reset && !same:
		a.all("epoch-laundered", "the log was deleted and begun anew within one boot: what it held is what somebody wanted gone", "epoch %.12s was replaced by %.12s, and the TPM was not reset between", p.Mark.Epoch, s.Epoch)
	case same && a.trail.facts.Seq < p.Mark.Seq:
		a.all("log-rolled-back", "the log was cut: treat what happened since as hidden", "the log proves record %d; it proved record %d before", a.trail.facts.Seq, p.Mark.Seq)
	case same && a.trail.facts.Seq < p.Seen && a.quote.clock > p.Clock+stalled:
		a.refuse(Freshness, "no-progress", "", "records that were shown unproven must be proven the next time", "record %d was shown %v ago by the TPM's clock, and only %d is proven", p.Seen, millis(a.quote.clock-p.Clock), a.trail.facts.Seq)
	case !same:
		a.restarted(s, p)
	}
}

// stalled is for how long (ms) records may be shown without being proven.
const stalled = 10_000

// restarted judges a new epoch after a reset of the TPM: the host was booted.
func (a *appraisal) restarted(s *eventlog.Start, p *Checkpoint) {
	a.restart = true
	if b := s.Previous; b != nil && b.Epoch == p.Mark.Epoch && b.Seq >= p.Mark.Seq {
		return
	}
	a.answer(a.p.Forgotten, Configuration, "history-forgotten", "", "compare with what you know of the host; log: forgotten: accept takes it as it is",
		"the host was booted since, and its new log does not name the end of the old one, of which record %d was proven", p.Mark.Seq)
}

func millis(n uint64) time.Duration {
	return time.Duration(min(n, uint64(1<<53))) * time.Millisecond
}
