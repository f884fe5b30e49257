package eventlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealift/sealift/measure/tpm"
)

// fail answers everybody in the batch, and everybody behind it, at once: a
// start is refused within the time of one batch, not of two.
func (l *Log) fail(batch []*request, cause Cause, err error) {
	l.raise(cause, err)
	l.refuse(batch)
	l.mu.Lock()
	waiting := l.queue
	if l.out != nil && l.out.spares() {
		waiting = nil
	} else {
		l.queue = nil
	}
	l.mu.Unlock()
	l.refuse(waiting)
}

// refuse answers requests with the present outage. The log's own records stay
// for later, unless they stand in a batch whose fate is not known.
func (l *Log) refuse(batch []*request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stateLocked()
	var err error
	if l.out != nil {
		err = l.out.err
	}
	for _, q := range batch {
		if q.own {
			if l.pending == nil && q.record.Type != typeForeign && q.record.Type != typeEpoch {
				l.own = append(l.own, q)
			}
			continue
		}
		if l.out != nil {
			l.out.refused++
		}
		q.done <- answer{err: &UnavailableError{State: s, Err: err}}
	}
}

// raise begins an outage, or changes the cause of the one there is.
func (l *Log) raise(cause Cause, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil {
		l.out = &outage{from: l.c.Now()}
	}
	l.out.cause, l.out.err = cause, err
}

// clear ends an outage of one of the causes and has it told in the log.
func (l *Log) clear(causes ...Cause) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil {
		return
	}
	for _, c := range causes {
		if l.out.cause == c {
			o := l.out
			l.out = nil
			l.ownLocked("", "", typeUnavailable, unavailableBody{
				Cause: o.cause, Reason: firstLine(o.err), From: Time{o.from}, Until: Time{l.c.Now()}, Refused: o.refused,
			})
			return
		}
	}
}

// settle tries to end an outage: it finds out what became of a pending batch,
// whether the TPM is still the one it was, whether there is room again.
func (l *Log) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), l.c.Timeout)
	defer cancel()
	found, err := l.c.Device.ReadPCR(ctx, l.c.PCR)
	if err == nil {
		err = l.resolve(ctx, found)
	}
	if err != nil {
		l.raise(CauseTPM, err)
		return
	}
	if cause, err := l.fits(batchOverhead + allocationStep); err != nil {
		l.raise(cause, err)
		return
	}
	l.clear(CauseTPM, CauseWrite, CauseSpace, CauseBudget)
}

// resolve decides what the PCR's value means for a pending batch, an epoch
// that could not begin, or the log as it stands.
func (l *Log) resolve(ctx context.Context, found tpm.Values) error {
	if p := l.pending; p != nil {
		switch {
		case found.Equal(p.after):
			if err := l.late(p); err != nil {
				return err
			}
		case found.Equal(p.before):
			if err := l.undo(p); err != nil {
				return err
			}
		}
	}
	if l.plan != nil && l.pending == nil && l.r.seq == 0 {
		return l.begin(ctx, found)
	}
	if l.pending == nil && found.Equal(l.r.values) {
		return nil
	}
	reset, err := l.diverged(ctx, found)
	if err != nil {
		return err
	}
	if reset {
		l.pending = nil
		return l.begin(ctx, found)
	}
	// A foreign extend came between ours and the reading: the batch stays in
	// the log, and the record of the jump behind it says that no value proves it.
	if p := l.pending; p != nil {
		return l.late(p)
	}
	return nil
}

// late takes a batch into the log that is in the TPM although its callers were
// told that it is not.
func (l *Log) late(p *pendingBatch) error {
	var first uint64
	var count uint32
	for i, q := range p.requests {
		if !q.own {
			if count == 0 {
				first = p.batch.First + uint64(i)
			}
			count++
		}
	}
	l.finish(p)
	if l.plan != nil && l.r.seq > 0 {
		l.plan = nil
	}
	if count > 0 {
		l.mu.Lock()
		why := ""
		if l.out != nil {
			why = firstLine(l.out.err)
		}
		l.ownLocked("", "", typeUnanswered, unansweredBody{first, count, why})
		l.mu.Unlock()
	}
	return nil
}

// undo cuts a batch out of the log that is not in the TPM.
func (l *Log) undo(p *pendingBatch) error {
	b, err := l.st.cut(l.r.id, p.batch.First, p.offset)
	if err != nil {
		return fmt.Errorf("batch that was not extended: %w", err)
	}
	l.pending = nil
	l.addOwn("", "", typeRecovered, b)
	l.mu.Lock()
	for _, q := range p.requests {
		// What the log says of itself is said again; what the batch's jump or
		// epoch was made of is made anew.
		if q.own && q.record.Type != typeForeign && q.record.Type != typeEpoch && q.record.Type != typeUnproven {
			l.own = append(l.own, q)
		}
	}
	l.mu.Unlock()
	return nil
}

// diverged says what it means that the PCR is not where the log ends: the TPM
// was reset (an epoch has to begin), or somebody else extended the PCR, which
// the state says from now on.
func (l *Log) diverged(ctx context.Context, found tpm.Values) (reset bool, err error) {
	p, err := l.c.Device.Properties(ctx)
	if err != nil {
		return false, err
	}
	e := l.r.epoch
	switch {
	case p.ResetCount != e.ResetCount:
		l.plan = &plan{resetName(found.Equal(l.c.Initial)), TPMRestarted, resetReason(e.ResetCount, p.ResetCount), l.head()}
		return true, nil
	case found.Equal(l.c.Initial) && l.r.batches > 0:
		l.plan = &plan{TPMReset, PCRWasReset, fmt.Sprintf("PCR %d is back at its initial value although the TPM's resetCount stands at %d", l.c.PCR, p.ResetCount), l.head()}
		return true, nil
	}
	l.r.note(Foreign, ForeignExtend, foreignReason, l.r.seq+1)
	l.setPlace()
	return false, nil
}

// resetName: a reset TPM whose PCR somebody extended since has a history that
// no log explains.
func resetName(initial bool) Name {
	if initial {
		return TPMReset
	}
	return HistoryLost
}

func resetReason(from, to uint32) string {
	return fmt.Sprintf("the TPM's resetCount went from %d to %d within this boot", from, to)
}

// watch looks at the PCR while nothing happens, so that the state does not
// wait for the next start to be true.
func (l *Log) watch() {
	ctx, cancel := context.WithTimeout(context.Background(), l.c.Timeout)
	defer cancel()
	found, err := l.c.Device.ReadPCR(ctx, l.c.PCR)
	if err != nil {
		l.raise(CauseTPM, err)
		return
	}
	if found.Equal(l.r.values) {
		return
	}
	was := l.r
	if err := l.resolve(ctx, found); err != nil {
		l.raise(CauseTPM, err)
		return
	}
	if l.r != was {
		return // a new epoch began over found, and has moved the PCR since
	}
	if !found.Equal(l.r.values) && l.pending == nil {
		if err := l.put(ctx, found, nil); err != nil && !errors.As(err, new(*UnavailableError)) {
			l.raise(CauseTPM, err)
		}
	}
}
