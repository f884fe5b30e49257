package tpm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// DefaultIdle is how long a socket is kept after the last command. swtpm
// serves one client at a time, so holding it would lock out tpm2-tools.
const DefaultIdle = 10 * time.Millisecond

// Options tune a Device; the zero value is what Open uses.
type Options struct {
	// Timeout bounds each command; 0 means the constant Timeout.
	Timeout time.Duration
	// Idle is how long an unused socket is kept open; 0 means DefaultIdle.
	// Character devices are kept open always.
	Idle time.Duration
}

// Open opens the TPM at path: a character device such as "/dev/tpmrm0", or
// "unix:PATH" for a socket of swtpm.
func Open(ctx context.Context, path string) (Device, error) {
	return OpenWith(ctx, path, Options{})
}

// OpenWith is Open with Options.
func OpenWith(ctx context.Context, path string, o Options) (Device, error) {
	if o.Timeout <= 0 {
		o.Timeout = Timeout
	}
	if o.Idle <= 0 {
		o.Idle = DefaultIdle
	}
	d := &direct{path: path, o: o, turn: make(chan struct{}, 1)}
	d.litter.Store(true)
	if err := d.readBanks(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	p, err := d.Properties(ctx)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.class = classify(path, p)
	return d, nil
}

// classify never says more than a self-description allows.
func classify(path string, p Properties) Class {
	if _, ok := socketPath(path); ok {
		return Software
	}
	// libtpms and the reference simulator name themselves so.
	if strings.HasPrefix(p.Vendor, "SW") || strings.Contains(strings.ToLower(p.Vendor), "simulator") {
		return Software
	}
	return HardwareUnverified
}

var errClosed = errors.New("device is closed")

// direct speaks through go-tpm's tpm2 package. turn is the lock: a channel, so
// that waiting for one's turn is bounded as well.
type direct struct {
	path  string
	class Class
	o     Options
	// allocated holds for each bank the bit map of its PCRs.
	allocated map[Bank][]byte
	order     []Bank

	turn   chan struct{}
	link   transport.TPMCloser
	used   time.Time
	reaper *time.Timer
	closed bool
	// litter is true while a Command is under way, and stays so when it ended
	// without having cleaned up. It begins so: whoever had the TPM before us may
	// have been killed.
	litter atomic.Bool
}

var _ Device = (*direct)(nil)

func (d *direct) Path() string  { return d.path }
func (d *direct) Class() Class  { return d.class }
func (d *direct) Banks() []Bank { return append([]Bank(nil), d.order...) }

func (d *direct) Close() error {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	d.closed = true
	if d.reaper != nil {
		d.reaper.Stop()
	}
	return d.drop()
}

// drop forgets the link. The caller has the turn.
func (d *direct) drop() error {
	link := d.link
	d.link = nil
	if link == nil {
		return nil
	}
	return link.Close()
}

// run gives f a link within the device's time, and returns what f returned; an
// f that is given up on can no longer change anything the caller sees.
// Over a new link, when an old one proves dead, commands that change nothing may
// be sent again; others only if nothing of them was sent.
func run[T any](ctx context.Context, d *direct, command string, again bool, f func(transport.TPM) (T, error)) (T, error) {
	return runFor(ctx, d, d.o.Timeout, command, again, func(_ context.Context, t transport.TPM) (T, error) { return f(t) })
}

// runFor is run within another time; f is told by its context when it was given
// up on.
func runFor[T any](ctx context.Context, d *direct, timeout time.Duration, command string, again bool, f func(context.Context, transport.TPM) (T, error)) (T, error) {
	var none T
	start := time.Now()
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	late := func() error {
		if err := outer.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("TPM %s: %s: %w", d.path, command, err)
		}
		return &TimeoutError{Device: d.path, Command: command, After: time.Since(start).Round(time.Millisecond)}
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return none, late()
	}
	for {
		if d.closed {
			return none, &UnreachableError{d.path, command, errClosed}
		}
		old := d.link != nil
		r := once(ctx, d, f)
		var code tpm2.TPMRC
		var own *ownError
		switch {
		case r.err == nil:
			return r.value, nil
		case ctx.Err() != nil:
			return none, late()
		case errors.As(r.err, &own) && !r.broke:
			return none, r.err
		case r.broke && old && (again || errors.Is(r.err, errUnsent)):
			continue
		case r.broke || !errors.As(r.err, &code):
			return none, &UnreachableError{d.path, command, r.err}
		case !transient(r.err):
			return none, &ResponseError{d.path, command, r.err}
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return none, late()
		}
	}
}

type result[T any] struct {
	value T
	err   error
	broke bool
}

// once runs f over the present link or a new one. A link that broke, or on
// which f did not come back in time, is dropped: a late response must never be
// taken for the next command's.
func once[T any](ctx context.Context, d *direct, f func(context.Context, transport.TPM) (T, error)) result[T] {
	done := make(chan result[T], 1)
	// Opening is done beside us too: a socket whose backlog is full blocks.
	opened := make(chan transport.TPMCloser, 1)
	go func(link transport.TPMCloser) {
		defer close(opened)
		if link == nil {
			l, err := dial(d.path)
			if err != nil {
				done <- result[T]{err: err, broke: true}
				return
			}
			link = l
		}
		opened <- link
		if err := ctx.Err(); err != nil {
			// Too late to send anything: the caller was told so already.
			done <- result[T]{err: err, broke: true}
			return
		}
		w := &watched{TPM: link}
		v, err := f(ctx, w)
		done <- result[T]{v, err, w.broke != nil}
	}(d.link)
	select {
	case r := <-done:
		if l, ok := <-opened; ok {
			d.link = l
		}
		if r.broke {
			// The link is dead; how closing it fares tells nobody anything.
			_ = d.drop()
		}
		d.keep()
		return r
	case <-ctx.Done():
		// Closing a socket ends what hangs on it. A device's descriptor is in
		// use by the kernel, and by go-tpm's poll, until the command returns;
		// closed earlier its number could be another file's by then.
		d.link = nil
		go func() {
			l, ok := <-opened
			if !ok {
				return
			}
			if _, ok := l.(*socket); !ok {
				<-done
			}
			_ = l.Close() // nobody is left to be told
		}()
		return result[T]{err: ctx.Err(), broke: true}
	}
}

// keep notes the use of a socket and lets it go once it is idle.
func (d *direct) keep() {
	if _, ok := socketPath(d.path); !ok || d.link == nil {
		return
	}
	d.used = time.Now()
	if d.reaper == nil {
		d.reaper = time.AfterFunc(d.o.Idle, d.reap)
		return
	}
	d.reaper.Reset(d.o.Idle)
}

func (d *direct) reap() {
	select {
	case d.turn <- struct{}{}:
	default:
		return // in use; the command that has the turn sets the timer again
	}
	defer func() { <-d.turn }()
	if time.Since(d.used) >= d.o.Idle {
		_ = d.drop() // an idle socket has nothing left to lose
	}
}

// transient are the warnings after which the same command is to be sent again
// (TCG Part 2, section 6.6.3).
func transient(err error) bool {
	return errors.Is(err, tpm2.TPMRCRetry) || errors.Is(err, tpm2.TPMRCTesting) || errors.Is(err, tpm2.TPMRCYielded)
}
