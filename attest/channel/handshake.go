package channel

import (
	"bytes"
	"context"
	"errors"
	"net"
	"time"
)

// Target is whom a client wants to reach.
type Target struct {
	// Host is the name that the peer's AK certificate must carry; empty takes
	// any trusted host.
	Host string
	// AKName, if not empty, is the one AK that is taken.
	AKName []byte
}

// Client opens a channel over raw, which it owns from here on. The client
// proves itself first: a server's TPM works for trusted peers only. The error
// is an *Error.
func (e *Endpoint) Client(ctx context.Context, raw net.Conn, t Target) (*Conn, error) {
	c := e.newConn(raw, t, false)
	if err := c.establish(ctx, c.call); err != nil {
		return nil, err
	}
	return c, nil
}

// Server takes a channel over raw, which it owns from here on. The error is an
// *Error.
func (e *Endpoint) Server(ctx context.Context, raw net.Conn) (*Conn, error) {
	c := e.newConn(raw, Target{}, true)
	release, err := e.guard.admit(c.from)
	if err != nil {
		return nil, c.fail(PhaseAdmit, err)
	}
	defer release()
	if err := c.establish(ctx, c.answer); err != nil {
		return nil, err
	}
	return c, nil
}

// establish runs a side's part of the handshake and starts what keeps the
// channel proven.
func (c *Conn) establish(ctx context.Context, part func(context.Context) error) error {
	stop := context.AfterFunc(ctx, func() { c.fail(c.phaseNow(), context.Cause(ctx)) })
	defer stop()
	secured, spki, exporter, err := c.endpoint.secure(ctx, c.raw, c.server)
	if err != nil {
		return c.fail(PhaseTLS, err)
	}
	c.mu.Lock()
	c.tls, c.peerSPKI, c.exporter = secured, spki, exporter
	c.phase = PhaseHello
	c.mu.Unlock()
	go c.receive()
	if err := part(ctx); err != nil {
		return c.fail(c.phaseNow(), err)
	}
	if !stop() {
		return c.fail(PhaseOpen, context.Cause(ctx))
	}
	go c.widen()
	go c.serveProofs()
	go c.wantProofs()
	return nil
}

// greet exchanges HELLO. Meeting one's own AK is meeting oneself, or a copy.
func (c *Conn) greet(ctx context.Context) error {
	e := c.endpoint
	if err := c.send(kindHello, hello{window: defaultWindow, akName: e.cfg.AKName}.encode()); err != nil {
		return err
	}
	h, err := await(ctx, c, c.hellos, e.cfg.Limits.Hello)
	if err != nil {
		return err
	}
	switch {
	case bytes.Equal(h.akName, e.cfg.AKName):
		return malformed("the peer has this host's own AK")
	case len(c.target.AKName) > 0 && !bytes.Equal(h.akName, c.target.AKName):
		return &Error{Peer: c.peer, Phase: PhaseHello, Reason: "the peer has another AK than the one expected",
			Hint: "was the host enrolled again? then update the peer's entry"}
	}
	c.mu.Lock()
	c.peerAK = h.akName
	c.mu.Unlock()
	return nil
}

// call is the client's part.
func (c *Conn) call(ctx context.Context) error {
	if err := c.greet(ctx); err != nil {
		return err
	}
	asked, err := c.ask()
	if err != nil {
		return err
	}
	limit := c.endpoint.cfg.Limits.Proof
	q, err := await(ctx, c, c.requests, c.endpoint.cfg.Limits.Hello)
	if err != nil {
		return err
	}
	c.enter(PhaseProve)
	// The AK's name is no more than a claim yet: a lying server shall not use
	// up another host's quotes.
	if err := c.prove(ctx, q, []byte("called "+c.peer)); err != nil {
		return err
	}
	if _, err := await(ctx, c, c.accepts, limit); err != nil {
		return err
	}
	c.enter(PhaseEvidence)
	if err := c.appraise(ctx, asked, limit); err != nil {
		return err
	}
	// Open before the peer can know that it is, since data may follow at once.
	c.setOpen()
	return c.accept()
}

// answer is the server's part.
func (c *Conn) answer(ctx context.Context) error {
	if err := c.greet(ctx); err != nil {
		return err
	}
	asked, err := c.ask()
	if err != nil {
		return err
	}
	limit := c.endpoint.cfg.Limits.Proof
	c.enter(PhaseEvidence)
	if err := c.appraise(ctx, asked, limit); err != nil {
		return err
	}
	release, err := c.endpoint.guard.trusted(c.from, c.peerAK)
	if err != nil {
		return err
	}
	c.atEnd(release)
	if err := c.accept(); err != nil {
		return err
	}
	q, err := await(ctx, c, c.requests, c.endpoint.cfg.Limits.Hello)
	if err != nil {
		return err
	}
	c.enter(PhaseProve)
	c.mu.Lock()
	// The client's acceptance is what opens this side: data may lie right
	// behind it.
	c.opensOnAccept = true
	c.mu.Unlock()
	if err := c.prove(ctx, q, c.peerAK); err != nil {
		return err
	}
	_, err = await(ctx, c, c.accepts, limit)
	return err
}

// setOpen lets the application's bytes pass.
func (c *Conn) setOpen() {
	c.mu.Lock()
	c.openLocked()
	c.mu.Unlock()
}

func (c *Conn) openLocked() {
	c.in.open = true
	c.phase = PhaseOpen
	c.provenLocked(c.endpoint.cfg.Clock())
	// Nobody may be reading or writing when the time is up.
	c.lapse = time.AfterFunc(c.lifetime(), func() { _ = c.overdue() })
}

// lifetime is how old the last proof may become.
func (c *Conn) lifetime() time.Duration {
	return c.endpoint.cfg.Interval + c.endpoint.cfg.Patience
}

func (c *Conn) provenLocked(at time.Time) {
	c.proven, c.wall = at, at.Round(0)
	if c.lapse != nil {
		c.lapse.Reset(c.lifetime() - c.endpoint.cfg.Clock().Sub(at))
	}
}

// overdue ends a channel whose peer has not proven itself in time. The
// monotonic clock stands still while a machine sleeps and the wall clock may
// be set back: either is enough.
func (c *Conn) overdue() error {
	now, most := c.endpoint.cfg.Clock(), c.lifetime()
	c.mu.Lock()
	late := c.err == nil && (now.Sub(c.proven) >= most || now.Round(0).Sub(c.wall) >= most)
	c.mu.Unlock()
	if !late {
		return nil
	}
	return c.fail(PhaseAgain, errLate)
}

var errLate = errors.Join(errors.New("the last proof is too old"), context.DeadlineExceeded)

// await waits for what the receiver hands over.
func await[T any](ctx context.Context, c *Conn, from <-chan T, limit time.Duration) (T, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var zero T
	select {
	case v := <-from:
		return v, nil
	case <-c.ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		return zero, c.err
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	case <-timer.C:
		return zero, context.DeadlineExceeded
	}
}
