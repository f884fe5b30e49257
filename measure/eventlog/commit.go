package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/sealift/sealift/internal/fault"
	"github.com/sealift/sealift/measure/tpm"
)

// A batch is bounded so that one extend's event data and one write stay small.
const (
	maxBatchItems = 512
	maxBatchBytes = 2 << 20
)

// pendingBatch is written; whether it is in the TPM is not known yet.
type pendingBatch struct {
	batch         *Batch
	before, after tpm.Values
	requests      []*request
	digests       []Hash
	// offset is where the batch begins in the newest segment.
	offset int64
	// synced is set once its bytes are on the disk.
	synced bool
}

// commitLoop is the committer: the only goroutine that writes and extends.
func (l *Log) commitLoop() {
	defer l.done.Done()
	const probe = 250 * time.Millisecond
	tick := time.NewTicker(probe)
	defer tick.Stop()
	looked := time.Now()
	for {
		select {
		case <-l.stop:
			l.mu.Lock()
			l.flush(l.c.Now(), true)
			l.mu.Unlock()
			for l.commitNext() {
			}
			return
		case <-l.wake:
			for l.commitNext() {
				looked = time.Now()
			}
		case seen := <-l.looks:
			l.look(seen)
			looked = time.Now()
		case <-tick.C:
			l.mu.Lock()
			l.flush(l.c.Now(), false)
			out := l.out
			l.mu.Unlock()
			switch {
			case out != nil:
				l.settle()
			case l.c.Watch > 0 && time.Since(looked) >= l.c.Watch:
				looked = time.Now()
				l.watch()
			}
			for l.commitNext() {
			}
		}
	}
}

// commitNext takes what is queued, as much as one batch may hold, and says
// whether there was anything it could do.
func (l *Log) commitNext() bool {
	l.mu.Lock()
	if l.pending != nil || l.plan != nil || (l.out != nil && !l.out.spares()) {
		waiting := l.queue
		l.queue = nil
		l.mu.Unlock()
		l.refuse(waiting)
		return false
	}
	batch, own := l.own, len(l.own)
	l.own = nil
	n, size := 0, int64(0)
	for n < len(l.queue) && n < maxBatchItems && (n == 0 || size+l.queue[n].size <= maxBatchBytes) {
		size += l.queue[n].size
		n++
	}
	batch = append(batch, l.queue[:n]...)
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	l.mu.Unlock()
	if len(batch) == 0 {
		return false
	}
	err := l.commit(batch)
	// Records of the log's own wait for better times; they are no reason to
	// try again at once.
	return err == nil && (n > 0 || own > 0)
}

// commit brings one batch into the TPM and answers everybody in it.
func (l *Log) commit(batch []*request) error {
	ctx, cancel := context.WithTimeout(context.Background(), l.c.Timeout)
	defer cancel()
	if err := fault.Point("log.before-write"); err != nil {
		l.fail(batch, CauseWrite, err)
		return err
	}
	now, err := l.c.Device.ReadPCR(ctx, l.c.PCR)
	if err != nil {
		l.fail(batch, CauseTPM, err)
		return err
	}
	if !now.Equal(l.r.values) {
		reset, err := l.diverged(ctx, now)
		if err == nil && reset {
			if err = l.begin(ctx, now); err == nil {
				now = l.r.values
			}
		}
		if err != nil {
			l.fail(batch, CauseTPM, err)
			return err
		}
	}
	batch = l.startable(batch)
	return l.put(ctx, now, batch)
}

// startable answers the events that may not be while starts are not allowed.
func (l *Log) startable(batch []*request) []*request {
	l.mu.Lock()
	s := l.state
	l.mu.Unlock()
	if s.AllowsStarts() {
		return batch
	}
	var out []*request
	for _, q := range batch {
		if q.start {
			q.done <- answer{err: &StateError{s}}
		} else {
			out = append(out, q)
		}
	}
	return out
}

// put writes the batch with one write, extends the PCR and reads it back. On
// success everybody is answered; on an error too, and what is to be found out
// stands in l.pending.
func (l *Log) put(ctx context.Context, before tpm.Values, batch []*request) error {
	if !before.Equal(l.r.values) {
		q, err := newRequest("", "", typeForeign, foreignBody{toBanks(l.r.values), toBanks(before)}, nil, l.c.Now())
		if err != nil {
			l.fail(batch, CauseWrite, err)
			return err
		}
		q.own, q.reserved = true, true
		batch = append([]*request{q}, batch...)
	}
	batch, err := l.room(batch)
	if err != nil || len(batch) == 0 {
		return err
	}
	text, p, err := l.compose(before, batch)
	if err != nil {
		l.fail(batch, CauseWrite, err)
		return err
	}
	if err := l.st.write(text); err != nil {
		cause := CauseWrite
		if errors.Is(err, errNoSpace) {
			cause = CauseSpace
		}
		l.fail(batch, cause, err)
		return err
	}
	l.pending = p
	if err := l.extend(ctx, p); err != nil {
		l.fail(batch, CauseTPM, err)
		return err
	}
	l.finish(p)
	l.answer(p)
	return nil
}

// extend takes a written batch into the TPM and makes sure it arrived.
func (l *Log) extend(ctx context.Context, p *pendingBatch) error {
	if err := fault.Point("log.after-write"); err != nil {
		return err
	}
	for _, q := range p.requests {
		if q.sync {
			if err := l.st.f.Sync(); err != nil {
				return err
			}
			p.synced = true
			break
		}
	}
	data := EventData(p.batch.Epoch, p.batch.First, p.digests)
	if err := l.c.Device.Extend(ctx, l.c.PCR, tpm.HashAll(p.before.Banks(), data)); err != nil {
		return err
	}
	if err := fault.Point("log.after-extend"); err != nil {
		return err
	}
	found, err := l.c.Device.ReadPCR(ctx, l.c.PCR)
	if err != nil {
		return err
	}
	if !found.Equal(p.after) {
		return fmt.Errorf("PCR %d is %s after an extend that leads to %s", l.c.PCR, found.Brief(), p.after.Brief())
	}
	return nil
}

// compose gives the batch's lines: its items and the line that ends it.
func (l *Log) compose(before tpm.Values, batch []*request) ([]byte, *pendingBatch, error) {
	p := &pendingBatch{before: before, requests: batch, offset: l.st.size}
	var text bytes.Buffer
	put := func(line Line) error {
		b, err := Marshal(line)
		if err != nil {
			return err
		}
		text.Write(b)
		text.WriteByte('\n')
		return nil
	}
	for i, q := range batch {
		ns := q.record.Namespace
		blind, ok := l.r.blinds[ns]
		if !ok {
			blind = random()
			l.r.blinds[ns] = blind
		}
		item := &Item{Epoch: l.r.id, Seq: l.r.seq + 1 + uint64(i), Blind: blind, Salt: random(), Salts: q.salts, Record: q.text}
		p.digests = append(p.digests, ItemDigest(item.Epoch, item.Seq, Pseudonym(l.r.id, blind, ns), Commitment(item.Salt, q.text)))
		if err := put(Line{Item: item}); err != nil {
			return nil, nil, err
		}
	}
	data := EventData(l.r.id, l.r.seq+1, p.digests)
	p.after = before.Extended(tpm.HashAll(before.Banks(), data))
	p.batch = &Batch{l.r.id, l.r.seq + 1, uint32(len(batch)), toBanks(before), toBanks(p.after)}
	if err := put(Line{Batch: p.batch}); err != nil {
		return nil, nil, err
	}
	return text.Bytes(), p, nil
}

// room makes sure that the batch fits on the disk and into the epoch, and
// answers those who must wait for room.
func (l *Log) room(batch []*request) ([]*request, error) {
	if l.st.size >= l.c.SegmentBytes {
		if err := l.st.next(); err != nil {
			// The old segment serves on until a new one can be made.
			slog.Warn("event log: next segment", "directory", l.st.dir, "error", err)
		} else {
			l.setPlace()
		}
	}
	need := sizeOf(batch)
	cause, err := l.fits(need)
	if err == nil {
		l.clear(CauseSpace, CauseBudget)
		return batch, nil
	}
	l.raise(cause, err)
	var spared []*request
	now := l.c.Now()
	for _, q := range batch {
		ok := q.reserved
		if ok {
			l.mu.Lock()
			ok = l.quotas.takeReserve(q.record.Namespace, q.size, l.c.Reserve, now)
			if !ok {
				l.quotas.count(q.record.Namespace, q.record.Type, now)
			}
			l.mu.Unlock()
			if !ok {
				q.done <- answer{}
				continue
			}
			spared = append(spared, q)
			continue
		}
		l.refuse([]*request{q})
	}
	if len(spared) == 0 {
		return nil, err
	}
	if l.st.total+l.st.size+sizeOf(spared) > l.c.MaxBytes {
		err = errBudget
	} else {
		err = l.st.ensure(sizeOf(spared), 0)
	}
	if err != nil {
		l.fail(spared, cause, err)
		return nil, err
	}
	return spared, nil
}

var errBudget = errors.New("the log of this boot is full")

// batchOverhead is about what the line that ends a batch takes.
const batchOverhead = 2048

func sizeOf(batch []*request) int64 {
	n := int64(batchOverhead)
	for _, q := range batch {
		n += q.size
	}
	return n
}

// fits says whether n more bytes leave the reserve untouched.
func (l *Log) fits(n int64) (Cause, error) {
	if l.st.total+l.st.size+n+l.c.Reserve > l.c.MaxBytes {
		return CauseBudget, errBudget
	}
	if err := l.st.ensure(n, l.c.Reserve); err != nil {
		if errors.Is(err, errNoSpace) {
			return CauseSpace, err
		}
		return CauseWrite, err
	}
	return CauseNone, nil
}

// finish takes a batch that is in the TPM into the log's state.
func (l *Log) finish(p *pendingBatch) {
	l.pending = nil
	for i, q := range p.requests {
		if err := l.r.apply(q.record, p.batch.First+uint64(i)); err != nil {
			// Only bodies this program just made are decoded there.
			slog.Error("event log: own record", "seq", p.batch.First+uint64(i), "error", err)
		}
	}
	l.r.values, l.r.seq = p.after, p.batch.Last()
	l.r.batches++
	l.setPlace()
	if p.synced {
		l.mu.Lock()
		l.state.SyncedSeq = l.r.seq
		l.mu.Unlock()
	}
	select {
	case l.dirty <- struct{}{}:
	default:
	}
}

func (l *Log) answer(p *pendingBatch) {
	for i, q := range p.requests {
		q.done <- answer{seq: p.batch.First + uint64(i), epoch: p.batch.Epoch}
	}
}

// setPlace publishes the state and how far the log can be read.
func (l *Log) setPlace() {
	l.mu.Lock()
	defer l.mu.Unlock()
	synced := l.state.SyncedSeq
	if l.state.Epoch != l.r.id {
		synced = 0
	}
	l.state = State{
		Name: l.r.name, Cause: l.r.cause, Reason: l.r.reason, Acknowledged: l.r.acknowledged,
		Class: l.c.Device.Class(), Epoch: l.r.id, Seq: l.r.seq, Batches: l.r.batches,
		SyncedSeq: synced, Head: l.r.values, Directory: filepath.Clean(l.c.Dir),
	}
	if l.r.seq > 0 {
		l.place = place{l.st.dir, l.r.id, l.st.index, l.st.size, l.st.f}
		l.headNow = l.r.head()
	}
	close(l.changed)
	l.changed = make(chan struct{})
}
