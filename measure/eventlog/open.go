package eventlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/tpm"
)

// plan is an epoch that has to begin.
type plan struct {
	name     Name
	cause    Cause
	reason   string
	previous *headBody
}

// LockedError says that another process has the log.
type LockedError struct{ Dir string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("event log %s is held by another process\nhint: only one sealiftd may run; systemctl status sealiftd", e.Dir)
}

// Open takes the log's lock, replays the newest epoch against the PCR, decides
// the state, and goes on with that epoch or begins a new one.
func Open(ctx context.Context, c Config) (*Log, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, epochsName), 0o700); err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	lock, err := takeLock(c.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{
		c: c, lock: lock,
		wake: make(chan struct{}, 1), looks: make(chan chan struct{}), dirty: make(chan struct{}, 1), stop: make(chan struct{}),
		changed: make(chan struct{}), windows: newWindows(), flushed: c.Now(),
		quotas: &quotas{q: c.Quota, maxBytes: c.MaxBytes, accounts: map[string]*account{}},
	}
	if err := l.open(ctx); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = &UnavailableError{State{Name: Unavailable, Cause: CauseSpace, Reason: firstLine(err), Directory: c.Dir}, err}
		}
		err = fmt.Errorf("event log %s: %w", c.Dir, err)
		if l.st != nil {
			err = errors.Join(err, l.st.close())
		}
		return nil, errors.Join(err, lock.Close())
	}
	l.done.Add(2)
	go l.commitLoop()
	go l.syncLoop()
	l.poke()
	return l, nil
}

func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = &LockedError{dir}
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (l *Log) open(ctx context.Context) error {
	found, err := l.c.Device.ReadPCR(ctx, l.c.PCR)
	if err != nil {
		return err
	}
	if l.c.Initial == nil {
		l.c.Initial = tpm.Zero(found.Banks())
	}
	props, err := l.c.Device.Properties(ctx)
	if err != nil {
		return err
	}
	head, err := readHead(l.c.Dir)
	if err != nil {
		return err
	}
	epochs, err := listEpochs(l.c.Dir)
	if err != nil {
		return err
	}
	var s *scan
	var unborn []recoveredBody
	// An epoch whose first batch never was extended is none: what came before
	// it decides. Its bytes are kept, and told of like any tail.
	for i := len(epochs) - 1; i >= 0 && s == nil; i-- {
		if s, err = scanEpoch(epochs[i].path, found); err != nil {
			return err
		}
		if !s.unborn() {
			continue
		}
		kept, err := keepUnborn(s)
		if err != nil {
			return err
		}
		unborn = append(unborn, kept...)
		s = nil
	}
	v := l.judge(s, head, found, props)
	if v.plan == nil {
		return l.resume(s, v.cut, found, unborn)
	}
	l.plan = v.plan
	for _, b := range unborn {
		l.addOwn("", "", typeRecovered, b)
		if l.plan.name == Trusted {
			l.plan.name, l.plan.cause, l.plan.reason = Recovered, TailUnextended, recoveredReason(b)
		}
	}
	return l.begin(ctx, found)
}

// resume goes on with an epoch the PCR agrees with.
func (l *Log) resume(s *scan, cut bool, found tpm.Values, unborn []recoveredBody) error {
	st, err := openStore(s.dir)
	if err != nil {
		return err
	}
	l.st, l.r = st, s.replay
	if cut {
		seq, offset := s.seq+1, s.end
		if !s.atEnd {
			// The last whole batch is what was never extended: stand before it.
			seq, offset = s.last.batch.First, s.lastAt
		}
		if _, err := st.cut(s.id, seq, offset); err != nil {
			return err
		}
		again, err := scanEpoch(s.dir, s.values)
		if err != nil {
			return err
		}
		if again.bad != nil || again.trailing != 0 {
			return fmt.Errorf("after cutting the tail: %d bytes left, %w", again.trailing, cmp.Or(again.bad, errTorn))
		}
		l.r = again.replay
	}
	l.r.open = nil
	if !found.Equal(l.r.values) {
		// The tail that was cut began with the record of a foreign extend.
		l.r.note(Foreign, ForeignExtend, foreignReason, l.r.seq+1)
	}
	kept, err := tails(s.dir, l.r.id)
	if err != nil {
		return err
	}
	// A tail of which no record speaks yet: this one, or one whose record a
	// crash prevented.
	for _, b := range append(unborn, kept...) {
		if !l.r.recoveredTail[b.SHA256] {
			l.addOwn("", "", typeRecovered, b)
			l.r.note(Recovered, TailUnextended, recoveredReason(b), l.r.seq+1)
		}
	}
	l.mu.Lock()
	for ns, n := range l.r.written {
		l.quotas.of(ns, l.c.Now()).written = n
	}
	l.mu.Unlock()
	l.setPlace()
	return nil
}

// keepUnborn empties an epoch that never began; what it held is kept beside.
func keepUnborn(s *scan) ([]recoveredBody, error) {
	if s.batches > 0 || s.trailing > 0 {
		st, err := openStore(s.dir)
		if err != nil {
			return nil, err
		}
		_, err = st.cut(s.id, 1, 0)
		if err = errors.Join(err, st.retire()); err != nil {
			return nil, err
		}
	}
	return tails(s.dir, s.id)
}

// begin starts the epoch that l.plan describes over the PCR's present value.
// Until it has succeeded the plan stays.
func (l *Log) begin(ctx context.Context, found tpm.Values) error {
	p := l.plan
	props, err := l.c.Device.Properties(ctx)
	if err != nil {
		return err
	}
	epochs, err := listEpochs(l.c.Dir)
	if err != nil {
		return err
	}
	number := uint64(1)
	if n := len(epochs); n > 0 {
		number = epochs[n-1].number + 1
	}
	if p.previous != nil {
		number = max(number, p.previous.Number+1)
	}
	body := &epochBody{
		Version: FormatVersion, Instance: l.c.Instance, BootID: l.c.BootID, ResetCount: props.ResetCount,
		Number: number, Nonce: random(), PCR: uint32(l.c.PCR), Initial: toBanks(found), Previous: p.previous,
		State: p.name, Cause: p.cause, Reason: p.reason,
		Device: l.c.Device.Path(), Class: string(l.c.Device.Class()), Manufacturer: props.Manufacturer, Vendor: props.Vendor,
		Firmware: props.Firmware, RestartCount: props.RestartCount, ClockMillis: uint64(props.Clock / time.Millisecond), Safe: props.Safe,
	}
	st, err := createStore(l.c.Dir, number, body.id())
	if err != nil {
		return err
	}
	if l.st != nil {
		// A batch of unknown fate may stand behind what is known to be in the
		// TPM; it stays there to be looked at.
		if err := l.st.retire(); err != nil {
			return errors.Join(err, st.close())
		}
	}
	l.st = st
	l.r = newReplay()
	l.r.epoch, l.r.id, l.r.values = body, body.id(), found
	l.r.name, l.r.cause, l.r.reason = p.name, p.cause, p.reason
	l.mu.Lock()
	for _, a := range l.quotas.accounts {
		a.written, a.reserve = 0, 0
	}
	l.mu.Unlock()
	batch, err := l.firstBatch(ctx, p, body)
	if err != nil {
		return err
	}
	l.setPlace()
	if err := l.put(ctx, found, batch); err != nil {
		return err
	}
	l.plan = nil
	return nil
}

// firstBatch is the epoch's own record, the containers it cannot vouch for,
// and what the log had to say about itself anyway.
func (l *Log) firstBatch(ctx context.Context, p *plan, body *epochBody) ([]*request, error) {
	type own struct {
		namespace, kind string
		body            any
	}
	list := []own{{"", typeEpoch, body}}
	if p.name != Trusted && l.c.Running != nil {
		running, err := l.c.Running(ctx)
		if err != nil {
			list = append(list, own{"", typeUnproven, unprovenBody{Unknown: firstLine(err)}})
		}
		by := map[string][]string{}
		for _, c := range running {
			by[c.Namespace] = append(by[c.Namespace], c.ID)
		}
		for _, ns := range slices.Sorted(maps.Keys(by)) {
			slices.Sort(by[ns])
			for part := range slices.Chunk(by[ns], 1000) {
				list = append(list, own{ns, typeUnproven, unprovenBody{Containers: part}})
			}
		}
	}
	var batch []*request
	for _, o := range list {
		q, err := newRequest(o.namespace, "", o.kind, o.body, nil, l.c.Now())
		if err != nil {
			return nil, err
		}
		q.own, q.reserved = true, true
		batch = append(batch, q)
	}
	l.mu.Lock()
	batch = append(batch, l.own...)
	l.own = nil
	l.mu.Unlock()
	return batch, nil
}

// readHead reads the head file. One that cannot be decoded is as good as none:
// whoever can spoil it can remove it.
func readHead(dir string) (*headBody, error) {
	b, err := os.ReadFile(filepath.Join(dir, headName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var h headBody
	if Unmarshal(b, &h) != nil {
		return nil, nil
	}
	return &h, nil
}
