package channel

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Read gives data of a trusted peer. Its error is io.EOF after the peer's
// Close, os.ErrDeadlineExceeded, or what Err returns.
func (c *Conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		if err := c.overdue(); err != nil {
			return 0, err
		}
		c.mu.Lock()
		if c.err != nil && !c.drained {
			err := c.err
			c.mu.Unlock()
			return 0, err
		}
		n := c.pending.read(b)
		c.taken += uint32(n)
		more, ended := c.taken >= defaultWindow/4, c.err != nil
		c.mu.Unlock()
		switch {
		case n > 0 || len(b) == 0:
			if more {
				wake(c.consumed)
			}
			return n, nil
		case ended:
			return 0, io.EOF
		}
		select {
		case <-c.readable:
		case <-c.ctx.Done():
		case <-c.readUntil.wait():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// Write sends data to a trusted peer, waiting while its window is full. The
// write deadline is looked at between frames; one frame has Limits.Write.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	total := 0
	for len(b) > 0 {
		if err := c.overdue(); err != nil {
			return total, err
		}
		c.mu.Lock()
		if c.err != nil {
			err := c.err
			c.mu.Unlock()
			return total, err
		}
		n := min(len(b), maxPiece, int(c.in.grant))
		c.in.grant -= uint32(n)
		c.mu.Unlock()
		if n == 0 {
			select {
			case <-c.writable:
			case <-c.ctx.Done():
			case <-c.writeUntil.wait():
				return total, os.ErrDeadlineExceeded
			}
			continue
		}
		select {
		case <-c.writeUntil.wait():
			c.mu.Lock()
			c.in.grant += uint32(n)
			c.mu.Unlock()
			return total, os.ErrDeadlineExceeded
		default:
		}
		if err := c.send(kindData, b[:n]); err != nil {
			return total, c.fail(PhaseOpen, err)
		}
		total += n
		b = b[n:]
	}
	return total, nil
}

// widen tells the peer how much of its data was read.
func (c *Conn) widen() {
	for {
		select {
		case <-c.consumed:
		case <-c.ctx.Done():
			return
		}
		c.mu.Lock()
		n := c.taken
		c.taken = 0
		c.in.credit += n
		c.mu.Unlock()
		if n == 0 {
			continue
		}
		if err := c.send(kindWindow, binary.BigEndian.AppendUint32(nil, n)); err != nil {
			c.fail(PhaseOpen, err)
			return
		}
	}
}

func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

func (c *Conn) SetDeadline(t time.Time) error {
	c.readUntil.set(t)
	c.writeUntil.set(t)
	return nil
}

func (c *Conn) SetReadDeadline(t time.Time) error { c.readUntil.set(t); return nil }

func (c *Conn) SetWriteDeadline(t time.Time) error { c.writeUntil.set(t); return nil }

// deadline is a channel that is closed when a time has come.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	ch    chan struct{}
}

func (d *deadline) init() { d.ch = make(chan struct{}) }

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.ch // the timer has run or is about to close it
	}
	d.timer = nil
	select {
	case <-d.ch:
		d.ch = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		ch := d.ch
		d.timer = time.AfterFunc(left, func() { close(ch) })
	} else {
		close(d.ch)
	}
}
