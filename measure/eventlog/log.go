// Package eventlog is the ordered record of everything Sealift extends into its
// PCR since boot. An event is written to a file first and extended into the TPM
// then, many at a time; nobody's Append returns before its own batch is in the
// TPM. The format is docs/event-log.md, to the bit.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"
)

// Log is the one open log of a directory. It is safe for concurrent use.
type Log struct {
	c    Config
	lock *os.File

	wake     chan struct{}
	looks    chan chan struct{}
	dirty    chan struct{}
	stop     chan struct{}
	done     sync.WaitGroup
	closing  sync.Once
	closeErr error

	mu      sync.Mutex
	queue   []*request
	own     []*request
	state   State
	out     *outage
	place   place
	headNow *headBody
	changed chan struct{}
	windows *windows
	quotas  *quotas
	flushed time.Time
	closed  bool

	// The rest is the committer's alone.
	r       *replay
	st      *store
	pending *pendingBatch
	plan    *plan
}

// place is up to where the log can be read.
type place struct {
	dir   string
	epoch Hash
	index int
	size  int64
	file  *os.File
}

// outage is a time in which nothing, or not everything, can be recorded.
type outage struct {
	cause   Cause
	err     error
	from    time.Time
	refused uint64
}

// request is one event on its way.
type request struct {
	record   *Record
	text     []byte
	salts    []Salt
	size     int64
	start    bool
	reserved bool
	sync     bool
	own      bool
	done     chan answer
}

type answer struct {
	seq   uint64
	epoch Hash
	err   error
}

// lineOverhead is about what a stored line adds to its record.
const lineOverhead = 384

func (l *Log) prepare(e *Event, now time.Time) (*request, error) {
	if !validType(e.Type) || ownType(e.Type) {
		return nil, fmt.Errorf("event log: type %q is not one an event may have", e.Type)
	}
	q, err := newRequest(e.Namespace, e.Container, e.Type, e.Body, e.Salted, now)
	if err != nil {
		return nil, err
	}
	q.start, q.reserved, q.sync = e.Start, e.Reserved, e.Sync
	return q, nil
}

func newRequest(namespace, container, kind string, body any, salted map[string][]byte, now time.Time) (*request, error) {
	rec := &Record{Type: kind, Time: Time{now}, Namespace: namespace, Container: container}
	var err error
	if rec.Body, err = Marshal(body); err != nil {
		return nil, fmt.Errorf("event log: %s event: body: %w", kind, err)
	}
	q := &request{record: rec, done: make(chan answer, 1)}
	for _, name := range slices.Sorted(maps.Keys(salted)) {
		salt := random()
		q.salts = append(q.salts, Salt{name, salt})
		rec.Salted = append(rec.Salted, Salted{name, SaltedHash(salt, name, salted[name])})
	}
	return q, q.seal()
}

// seal fixes the record's bytes.
func (q *request) seal() error {
	var err error
	if q.text, err = Marshal(q.record); err != nil {
		return fmt.Errorf("event log: %s event: %w", q.record.Type, err)
	}
	q.size = int64(len(q.text)) + int64(len(q.salts))*128 + lineOverhead
	if q.size > maxEvent {
		return fmt.Errorf("event log: %s event of %d bytes is larger than %d", q.record.Type, q.size, maxEvent)
	}
	return nil
}

// maxEvent bounds one event, well below MaxLine.
const maxEvent = 1 << 20

// Append records an event and returns its sequence number once its batch is in
// the TPM. Its errors are *StateError (starts are not allowed), *QuotaError
// (this namespace wrote too much), *UnavailableError (TPM or disk), ctx's error
// (the event may yet be recorded), or about the event itself. An event counted
// in place of a record returns the number of the record it repeats; 0 where it
// was counted because of a quota.
func (l *Log) Append(ctx context.Context, e Event) (uint64, error) {
	now := l.c.Now()
	q, err := l.prepare(&e, now)
	if err != nil {
		return 0, err
	}
	var key string
	l.mu.Lock()
	if e.Coalesce != "" {
		key = windowKey(&e)
		if l.out == nil && (!e.Start || l.state.AllowsStarts()) {
			if seq, ok := l.windows.repeat(key, now); ok {
				l.mu.Unlock()
				return seq, nil
			}
		}
		if !l.windows.full(e.Namespace) {
			q.record.Window = uint32((l.c.Window + time.Second - 1) / time.Second)
			if err := q.seal(); err != nil {
				l.mu.Unlock()
				return 0, err
			}
		}
	}
	if err := l.admit(&e, q, now); err != nil || q.text == nil {
		l.mu.Unlock()
		return 0, err
	}
	l.queue = append(l.queue, q)
	l.mu.Unlock()
	l.poke()

	select {
	case a := <-q.done:
		if a.err == nil && q.record.Window > 0 {
			l.mu.Lock()
			l.windows.add(&window{
				key: key, of: a.seq, epoch: a.epoch, namespace: e.Namespace, container: e.Container, kind: e.Type,
				ends: now.Add(l.c.Window),
			})
			l.mu.Unlock()
		}
		return a.seq, a.err
	case <-ctx.Done():
		return 0, fmt.Errorf("event log: %s event may or may not be recorded: %w", e.Type, ctx.Err())
	}
}

// admit decides at the door: outage, then quota. An event that is only counted
// loses its text. The caller holds l.mu.
func (l *Log) admit(e *Event, q *request, now time.Time) error {
	if l.closed {
		return &UnavailableError{State: l.unavailable(CauseClosed, errLogClosed), Err: errLogClosed}
	}
	if o := l.out; o != nil && (!e.Reserved || !o.spares()) {
		o.refused++
		return &UnavailableError{State: l.stateLocked(), Err: o.err}
	}
	err := l.quotas.take(e.Namespace, q.size, now)
	if err != nil && e.Reserved {
		l.quotas.count(e.Namespace, e.Type, now)
		q.text = nil
		return nil
	}
	return err
}

var errLogClosed = errors.New("the log is closed")

// spares says whether reserved events still get through.
func (o *outage) spares() bool { return o.cause == CauseSpace || o.cause == CauseBudget }

// poke wakes the committer.
func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// State says how the log stands.
func (l *Log) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stateLocked()
}

func (l *Log) stateLocked() State {
	if l.out != nil {
		return l.unavailable(l.out.cause, l.out.err)
	}
	return l.state
}

func (l *Log) unavailable(c Cause, err error) State {
	s := l.state
	s.Name, s.Cause, s.Reason = Unavailable, c, firstLine(err)
	return s
}

// Acknowledge records an operator's word on a state (Foreign, HistoryLost or
// TPMReset) that the log is in, after which starts are allowed again.
func (l *Log) Acknowledge(ctx context.Context, state, reason string) (uint64, error) {
	s := l.State()
	if string(s.Name) != state {
		return 0, fmt.Errorf("event log: state is %s, not %s: nothing to acknowledge", s.Name, state)
	}
	if s.Name != Foreign && s.Name != HistoryLost && s.Name != TPMReset {
		return 0, fmt.Errorf("event log: state %s needs no acknowledgement", s.Name)
	}
	if reason == "" {
		return 0, fmt.Errorf("event log: an acknowledgement of state %s needs a reason", s.Name)
	}
	q, err := newRequest("", "", typeAcknowledged, acknowledgedBody{s.Name, s.Cause, s.Seq, reason}, nil, l.c.Now())
	if err != nil {
		return 0, err
	}
	q.reserved, q.sync = true, true
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, &UnavailableError{State: l.unavailable(CauseClosed, errLogClosed), Err: errLogClosed}
	}
	l.queue = append(l.queue, q)
	l.mu.Unlock()
	l.poke()
	select {
	case a := <-q.done:
		if now := l.State(); a.err == nil && now.Name == s.Name && !now.Acknowledged {
			return a.seq, fmt.Errorf("event log: state %s got worse while it was being acknowledged: %s\nhint: look at it again, and acknowledge it again", now.Name, now.Reason)
		}
		return a.seq, a.err
	case <-ctx.Done():
		return 0, fmt.Errorf("event log: the acknowledgement may or may not be recorded: %w", ctx.Err())
	}
}

// ownLocked queues a record of the log itself. The caller holds l.mu.
func (l *Log) ownLocked(namespace, container, kind string, body any) {
	q, err := newRequest(namespace, container, kind, body, nil, l.c.Now())
	if err != nil {
		// Bodies of our own types always encode; only names longer than an
		// event may be get here.
		slog.Error("event log: own record", "type", kind, "namespace", namespace, "error", err)
		return
	}
	q.reserved, q.own = true, true
	l.own = append(l.own, q)
}

func (l *Log) addOwn(namespace, container, kind string, body any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ownLocked(namespace, container, kind, body)
}
