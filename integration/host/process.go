package host

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Cmd is a command to run inside. A nil Stdin is /dev/null; nil Stdout and
// Stderr are discarded.
type Cmd struct {
	Args           []string
	Env            []string // added to the host's own small environment
	Dir            string   // "/" when empty
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is a started command.
type Process struct {
	// PID is the one it has inside.
	PID int

	h      *Host
	done   chan struct{}
	status int
	lost   bool
	copies sync.WaitGroup
	after  []*os.File
}

// client is the maker's side of the control socket.
type client struct {
	c           *net.UnixConn
	ready, gone chan struct{}

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan message
	running map[uint64]*Process
}

func newClient(c net.Conn) *client {
	cl := &client{
		c: c.(*net.UnixConn), ready: make(chan struct{}), gone: make(chan struct{}),
		waiting: map[uint64]chan message{}, running: map[uint64]*Process{},
	}
	go cl.read()
	return cl
}

func (c *client) read() {
	defer close(c.gone)
	for {
		m, files, err := receive(c.c)
		if err != nil {
			break
		}
		closeAll(files)
		c.mu.Lock()
		switch m.Op {
		case "ready":
			close(c.ready)
		case "started":
			c.waiting[m.ID] <- m
			delete(c.waiting, m.ID)
		case "exited":
			if p, ok := c.running[m.ID]; ok {
				delete(c.running, m.ID)
				p.status = m.Status
				close(p.done)
			}
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, w := range c.waiting {
		w <- message{Error: "the host is gone"}
		delete(c.waiting, id)
	}
	for id, p := range c.running {
		p.lost = true
		close(p.done)
		delete(c.running, id)
	}
}

func (c *client) close() { c.c.Close() }

// Start starts a command inside, in a session of its own.
func (h *Host) Start(c Cmd) (*Process, error) {
	p := &Process{h: h, done: make(chan struct{})}
	files, err := p.stdio(c)
	if err != nil {
		return nil, err
	}
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	reply := make(chan message, 1)
	h.conn.mu.Lock()
	h.conn.next++
	id := h.conn.next
	h.conn.waiting[id] = reply
	h.conn.running[id] = p
	h.conn.mu.Unlock()
	forget := func() {
		h.conn.mu.Lock()
		defer h.conn.mu.Unlock()
		delete(h.conn.waiting, id)
		delete(h.conn.running, id)
	}
	err = send(h.conn.c, message{Op: "start", ID: id, Args: c.Args, Env: c.Env, Dir: dir}, files...)
	closeAll(files)
	if err != nil {
		forget()
		return nil, errors.Join(fmt.Errorf("%s on %s: %w", c.Args[0], h.Name, err), closeAll(p.after))
	}
	var m message
	select {
	case m = <-reply:
	case <-h.conn.gone:
		m.Error = "the host is gone"
	}
	if m.Error != "" {
		forget()
		return nil, errors.Join(fmt.Errorf("%s on %s: %s", c.Args[0], h.Name, m.Error), closeAll(p.after))
	}
	p.PID = m.PID
	return p, nil
}

// stdio returns the three descriptors for the new process, and starts the
// copying for those that are not files.
func (p *Process) stdio(c Cmd) ([]*os.File, error) {
	var files []*os.File
	fail := func(err error) ([]*os.File, error) {
		return nil, errors.Join(err, closeAll(files), closeAll(p.after))
	}
	add := func(f *os.File, err error) error {
		if err == nil {
			files = append(files, f)
		}
		return err
	}
	switch in := c.Stdin.(type) {
	case nil:
		if err := add(os.Open(os.DevNull)); err != nil {
			return fail(err)
		}
	case *os.File:
		if err := add(dup(in)); err != nil {
			return fail(err)
		}
	default:
		r, w, err := os.Pipe()
		if err != nil {
			return fail(err)
		}
		files = append(files, r)
		go func() {
			io.Copy(w, in) // EPIPE is the command's business
			w.Close()
		}()
	}
	for _, out := range []io.Writer{c.Stdout, c.Stderr} {
		switch out := out.(type) {
		case nil:
			if err := add(os.OpenFile(os.DevNull, os.O_WRONLY, 0)); err != nil {
				return fail(err)
			}
		case *os.File:
			if err := add(dup(out)); err != nil {
				return fail(err)
			}
		default:
			r, w, err := os.Pipe()
			if err != nil {
				return fail(err)
			}
			files = append(files, w)
			p.after = append(p.after, r)
			p.copies.Go(func() { drain(out, r) })
		}
	}
	return files, nil
}

// drain copies until the pipe ends or its deadline comes; then it takes what the
// pipe still holds. What a slow machine has not read yet is not lost.
func drain(out io.Writer, r *os.File) {
	if _, err := io.Copy(out, r); !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	raw, err := r.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, 64<<10)
	raw.Control(func(fd uintptr) {
		// The descriptor does not block: a writer that goes on for ever is bounded
		// by what a pipe may hold.
		for range 1 << 20 / len(b) {
			n, err := unix.Read(int(fd), b)
			if n <= 0 || err != nil {
				return
			}
			if _, err := out.Write(b[:n]); err != nil {
				return
			}
		}
	})
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// drainTime is how long output may go on after a process ended: something it
// left behind may hold the pipe for ever. What is in the pipe by then is read.
const drainTime = 2 * time.Second

// Wait waits for the end and returns the exit status, 128+n for one that signal
// n ended. It may be called more than once, but not from two goroutines.
func (p *Process) Wait() (int, error) {
	<-p.done
	drained := make(chan struct{})
	go func() { p.copies.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(drainTime):
		for _, r := range p.after {
			if err := r.SetReadDeadline(time.Now()); err != nil {
				return 0, err
			}
		}
	}
	<-drained
	if err := closeAll(p.after); err != nil {
		return 0, err
	}
	p.after = nil
	if p.lost {
		return 0, fmt.Errorf("process %d: the host %s is gone", p.PID, p.h.Name)
	}
	return p.status, nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal; to a process that has ended it does nothing.
func (p *Process) Signal(s unix.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
		return send(p.h.conn.c, message{Op: "signal", PID: p.PID, Signal: int(s)})
	}
}

// Daemon is a process whose output goes to a file in Host.Logs.
type Daemon struct {
	*Process
	Name, Log string
}

// Daemon starts a command that is to stay.
func (h *Host) Daemon(name string, c Cmd) (*Daemon, error) {
	log := filepath.Join(h.Logs, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c.Stdout, c.Stderr = f, f
	p, err := h.Start(c)
	if err != nil {
		return nil, err
	}
	return &Daemon{Process: p, Name: name, Log: log}, nil
}

// Stop asks the daemon to end with SIGTERM, and kills it after the time given.
func (d *Daemon) Stop(patience time.Duration) error {
	if err := d.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.Done():
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s on %s ignored SIGTERM for %s", d.Name, d.h.Name, patience), d.Kill())
	}
}

// Kill ends the daemon at once and waits for it.
func (d *Daemon) Kill() error {
	if err := d.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-d.Done()
	return nil
}
