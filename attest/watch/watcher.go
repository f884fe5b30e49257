package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/verify"
)

// Session is an open channel; *channel.Conn is one.
type Session interface {
	Attest(ctx context.Context) (*verify.Verdict, error)
	Verdict() *verify.Verdict
	Done() <-chan struct{}
	AKName() []byte
	Err() error
	Close() error
}

var _ Session = (*channel.Conn)(nil)

// Config is what a Watcher is made of.
type Config struct {
	// Peer is the name in the peer's certificate.
	Peer string
	// Open calls the peer; its error is an *channel.Error or one of dialling.
	Open func(ctx context.Context) (Session, error)
	// Interval is between two proofs, 30 s when 0; Patience what a call or a
	// proof may take, three quarters of it when 0. What happens on the peer is
	// told within both together, what happens to it within Interval + Patience.
	Interval, Patience time.Duration
	// Changed is told of every look, in order, with what it changed; nothing
	// mostly. It must not call the watcher.
	Changed func(Status, []Change)
	// Clock is time.Now when nil.
	Clock func() time.Time

	// keep is told what is to outlive the watcher, when it changed; memory is
	// what was kept.
	keep   func(memory, []byte)
	memory memory
}

// Watcher watches one peer.
type Watcher struct {
	cfg     Config
	demands chan chan struct{}

	mu      sync.Mutex
	machine *machine
}

// New returns a watcher that has not looked yet.
func New(cfg Config) (*Watcher, error) {
	if cfg.Interval == 0 {
		cfg.Interval = channel.DefaultInterval
	}
	if cfg.Patience == 0 {
		cfg.Patience = cfg.Interval / 4 * 3
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Open == nil || cfg.Interval < 0 || cfg.Patience < 0 {
		return nil, fmt.Errorf("watch of %s: needs a way to call it, and an interval that is not negative", cfg.Peer)
	}
	w := &Watcher{cfg: cfg, demands: make(chan chan struct{}), machine: newMachine(cfg.Peer)}
	w.machine.memory = cfg.memory
	return w, nil
}

// Status is how the peer stands.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.machine.status
}

// Check looks now, ahead of the interval, and returns how the peer stands
// after that. Run must be running.
func (w *Watcher) Check(ctx context.Context) (Status, error) {
	done := make(chan struct{})
	select {
	case w.demands <- done:
	case <-ctx.Done():
		return w.Status(), context.Cause(ctx)
	}
	select {
	case <-done:
		return w.Status(), nil
	case <-ctx.Done():
		return w.Status(), context.Cause(ctx)
	}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var session Session
	defer func() {
		if session != nil {
			session.Close()
		}
	}()
	for {
		var asked, ended = (chan struct{})(nil), (<-chan struct{})(nil)
		if session != nil {
			ended = session.Done()
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case asked = <-w.demands:
		case <-ended:
		}
		start := w.cfg.Clock()
		session = w.look(ctx, session)
		if ctx.Err() != nil {
			return
		}
		timer.Reset(w.cfg.Interval - w.cfg.Clock().Sub(start))
		if asked != nil {
			close(asked)
		}
	}
}

// look has the peer prove itself, over the session or a new one, and returns
// the session to go on with.
func (w *Watcher) look(ctx context.Context, s Session) Session {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Patience)
	defer cancel()
	if s != nil {
		v, err := s.Attest(ctx)
		if err == nil {
			w.note(ctx, v, nil, nil)
			return s
		}
		s.Close()
		// A connection that was cut, by a restart of the agent for one, says
		// less than the try to open the next. Everything else says enough; what
		// is late has used up the time.
		if !cut(err) {
			w.note(ctx, nil, nil, err)
			return nil
		}
	}
	s, err := w.cfg.Open(ctx)
	if err != nil {
		w.note(ctx, nil, nil, err)
		return nil
	}
	w.note(ctx, s.Verdict(), s.AKName(), nil)
	return s
}

// cut says whether a session ended without a word about either side's trust.
func cut(err error) bool {
	var e *channel.Error
	if !errors.As(err, &e) {
		return !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
	}
	return e.Cut()
}

// note has the machine take in what a look gave; akName is that of a new
// session.
func (w *Watcher) note(ctx context.Context, v *verify.Verdict, akName []byte, err error) {
	// A watcher that is told to stop has seen nothing of the peer.
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	o := Observation{At: w.cfg.Clock(), Verdict: v, Err: err}
	var e *channel.Error
	if errors.As(err, &e) {
		o.Verdict = e.Verdict
		o.Ours = e.Ours()
	}
	w.mu.Lock()
	before := w.machine.memory
	changes := w.machine.observe(o)
	status, after := w.machine.status, w.machine.memory
	w.mu.Unlock()
	if w.cfg.keep != nil && (after != before || len(akName) > 0) {
		w.cfg.keep(after, akName)
	}
	if w.cfg.Changed != nil {
		w.cfg.Changed(status, changes)
	}
}
