package channel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sealift/sealift/attest/verify"
)

// Conn is an open channel. Read and Write work only while the peer is trusted:
// from the moment its verdict falls or a proof is late they return an *Error,
// also for bytes that had arrived before.
type Conn struct {
	endpoint *Endpoint
	raw      net.Conn
	tls      *tls.Conn
	// peer names the other side in errors, from is its source in the guard.
	peer, from string
	target     Target
	server     bool
	exporter   []byte
	peerSPKI   []byte
	peerAK     []byte

	hellos   chan hello
	requests chan request
	proofs   chan proof
	accepts  chan struct{}
	demands  chan chan struct{}
	readable chan struct{}
	writable chan struct{}
	consumed chan struct{}

	ctx    context.Context
	cancel context.CancelFunc

	// reading and writing keep the application's calls apart, out the frames.
	reading, writing, out sync.Mutex
	frame                 []byte

	readUntil, writeUntil deadline

	mu      sync.Mutex
	phase   Phase
	err     error
	drained bool
	in      receiver
	pending pending
	taken   uint32
	round   uint32
	verdict *verify.Verdict
	// opensOnAccept is a server that awaits its client's acceptance.
	opensOnAccept bool
	proven        time.Time
	wall          time.Time
	lapse         *time.Timer
	release       []func()
}

var _ net.Conn = (*Conn)(nil)

func (e *Endpoint) newConn(raw net.Conn, t Target, server bool) *Conn {
	c := &Conn{
		endpoint: e, raw: raw, target: t, server: server, from: sourceOf(raw), peer: t.Host,
		hellos: make(chan hello, 1), requests: make(chan request, 1), proofs: make(chan proof, 1), accepts: make(chan struct{}, 1),
		demands: make(chan chan struct{}), readable: make(chan struct{}, 1), writable: make(chan struct{}, 1), consumed: make(chan struct{}, 1),
		phase: PhaseTLS,
	}
	if a := raw.RemoteAddr(); c.peer == "" && a != nil {
		c.peer = a.String()
	}
	c.in = receiver{maxEvidence: e.cfg.Limits.Evidence, credit: defaultWindow, hold: func(n int64) error {
		return e.guard.hold(c.from, n)
	}}
	// A channel ends when it is closed, not with the context of whoever opened it.
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.readUntil.init()
	c.writeUntil.init()
	return c
}

func (c *Conn) phaseNow() Phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase
}

func (c *Conn) enter(p Phase) {
	c.mu.Lock()
	c.phase = p
	c.mu.Unlock()
}

// send writes one frame. After the channel has ended nothing is written, but
// for the alert that says why.
func (c *Conn) send(k kind, parts ...[]byte) error {
	return c.sendBy(c.ctx, k, parts...)
}

// sendBy is send with ctx's deadline where it is earlier than the frame's own.
func (c *Conn) sendBy(ctx context.Context, k kind, parts ...[]byte) error {
	until := time.Now().Add(c.endpoint.cfg.Limits.Write)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	c.out.Lock()
	defer c.out.Unlock()
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.put(until, k, parts...)
}

// put writes one frame; the caller holds out.
func (c *Conn) put(until time.Time, k kind, parts ...[]byte) error {
	c.frame = appendFrame(c.frame[:0], k, parts...)
	if err := c.tls.SetWriteDeadline(until); err != nil {
		return err
	}
	_, err := c.tls.Write(c.frame)
	return err
}

// alertTime bounds the last word to a peer.
const alertTime = 500 * time.Millisecond

// fail ends the channel: from here on no byte of the application passes. Only
// the first reason counts. The peer is told a code and the reason.
func (c *Conn) fail(p Phase, cause error) error {
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		return err
	}
	e := c.explain(p, cause)
	c.err = e
	c.pending.clear()
	secured := c.tls != nil
	c.mu.Unlock()
	c.cancel()

	// Whoever is writing is not to hold up the end.
	cut := time.AfterFunc(alertTime, func() { c.raw.Close() })
	defer cut.Stop()
	if code, ok := alertFor(cause); ok && secured {
		c.out.Lock()
		// The peer may be gone: it learns of the end by the connection's.
		_ = c.put(time.Now().Add(alertTime), kindAlert, encodeAlert(code, said(code, e)))
		c.out.Unlock()
	}
	c.shut()
	return e
}

// shut closes the connection and gives back what the channel counted for.
func (c *Conn) shut() {
	if err := c.raw.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		slog.Debug("channel", "peer", c.peer, "err", err)
	}
	c.mu.Lock()
	release := c.release
	c.release = nil
	if c.lapse != nil {
		c.lapse.Stop()
	}
	if n := c.in.held(); n > 0 {
		c.in.coming = nil
		release = append(release, func() { c.endpoint.guard.drop(c.from, n) })
	}
	select {
	case p := <-c.proofs:
		release = append(release, func() { c.endpoint.guard.drop(c.from, int64(len(p.evidence))) })
	default:
	}
	c.mu.Unlock()
	for _, f := range release {
		f()
	}
}

// atEnd has f called when the channel ends; at once if it has.
func (c *Conn) atEnd(f func()) {
	c.mu.Lock()
	if c.err == nil {
		c.release = append(c.release, f)
		f = nil
	}
	c.mu.Unlock()
	if f != nil {
		f()
	}
}

// ended is the peer's BYE: what it sent before may still be read.
func (c *Conn) ended() {
	c.mu.Lock()
	if c.err == nil {
		c.err, c.drained = net.ErrClosed, true
	}
	c.mu.Unlock()
	c.cancel()
	c.shut()
}

// lingering is how long a closed connection waits for its peer to close too:
// closing at once could take back what was sent last.
const lingering = time.Second

// Close says BYE and ends the connection. It may be called more than once.
func (c *Conn) Close() error {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = net.ErrClosed
	}
	c.drained = false
	c.pending.clear()
	c.mu.Unlock()
	c.cancel()
	if !first {
		return nil
	}
	cut := time.AfterFunc(alertTime, func() { c.raw.Close() })
	defer cut.Stop()
	c.out.Lock()
	defer c.out.Unlock()
	err := c.put(time.Now().Add(alertTime), kindBye)
	if err == nil {
		err = c.raw.SetReadDeadline(time.Now().Add(lingering))
	}
	if w, ok := c.raw.(interface{ CloseWrite() error }); ok && err == nil {
		err = w.CloseWrite()
	}
	if err != nil {
		// A peer that is gone needs no farewell.
		c.shut()
	}
	return nil
}

// Err is nil while the peer is trusted and the channel open; then it says why
// it ended: an *Error, or net.ErrClosed after a Close of either side.
func (c *Conn) Err() error {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err == nil {
		return c.overdue()
	}
	return err
}

// Done is closed when the channel has ended.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }
