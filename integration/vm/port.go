package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sealift/sealift/integration/vm/wire"
)

// errGone says that the machine ended, or began anew, while a command ran.
var errGone = errors.New("the machine is gone")

// port is our end of the virtio port.
type port struct {
	conn  *wire.Conn
	close func() error
	boots chan string // boot ids, as guests report them

	mu      sync.Mutex
	next    uint64
	running map[uint64]*command
}

// command is one that runs inside. done is closed at its end.
type command struct {
	stdout, stderr io.Writer
	done           chan struct{}
	status         int
	err            error
}

func newPort(c net.Conn) *port {
	p := &port{conn: wire.New(c), close: c.Close, boots: make(chan string, 16), running: map[uint64]*command{}}
	go p.read()
	return p
}

func (p *port) read() {
	for {
		m, err := p.conn.Receive()
		if err != nil {
			p.forget(fmt.Errorf("%w: %w", errGone, err))
			close(p.boots)
			return
		}
		if m.Op == wire.OpReady {
			p.forget(fmt.Errorf("%w: it began anew", errGone))
			p.boots <- m.Boot
			continue
		}
		p.mu.Lock()
		c := p.running[m.ID]
		if c != nil && m.Op == wire.OpExit {
			delete(p.running, m.ID)
		}
		p.mu.Unlock()
		if c == nil {
			continue
		}
		switch m.Op {
		case wire.OpOutput:
			w := c.stdout
			if m.Stream == 2 {
				w = c.stderr
			}
			if _, err := w.Write(m.Data); err != nil && c.err == nil {
				c.err = err
			}
		case wire.OpExit:
			c.status = m.Status
			if m.Error != "" {
				c.err = errors.New(m.Error)
			}
			close(c.done)
		}
	}
}

// forget ends everything that was asked of a guest that is no more.
func (p *port) forget(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, c := range p.running {
		c.err = err
		close(c.done)
		delete(p.running, id)
	}
}

// run runs a command to its end. A context that ends kills it.
func (p *port) run(ctx context.Context, m wire.Message, stdout, stderr io.Writer) (int, error) {
	c := &command{stdout: stdout, stderr: stderr, done: make(chan struct{})}
	p.mu.Lock()
	p.next++
	m.Op, m.ID = wire.OpRun, p.next
	p.running[m.ID] = c
	p.mu.Unlock()
	if err := p.conn.Send(m); err != nil {
		p.mu.Lock()
		delete(p.running, m.ID)
		p.mu.Unlock()
		return 0, fmt.Errorf("%w: %w", errGone, err)
	}
	select {
	case <-c.done:
		return c.status, c.err
	case <-ctx.Done():
	}
	if err := p.conn.Send(wire.Message{Op: wire.OpKill, ID: m.ID}); err != nil {
		return 0, errors.Join(context.Cause(ctx), err)
	}
	select {
	case <-c.done:
	case <-time.After(10 * time.Second):
		p.mu.Lock()
		delete(p.running, m.ID)
		p.mu.Unlock()
	}
	return 0, context.Cause(ctx)
}

// awaitBoot waits until a guest of another boot reports, and the system inside
// has come up.
func (v *VM) awaitBoot(ctx context.Context) error {
	limit := time.NewTimer(bootTime)
	defer limit.Stop()
	for {
		select {
		case boot, ok := <-v.port.boots:
			switch {
			case !ok:
				<-v.qemu.done
				return v.qemu.ended()
			case boot == v.Boot:
				continue // the guest program was started again
			}
			v.Boot = boot
			return nil
		case <-v.qemu.done:
			return v.qemu.ended()
		case <-limit.C:
			return fmt.Errorf("no word from inside within %s: %w\n%s", bootTime, context.DeadlineExceeded, v.console(3000))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
