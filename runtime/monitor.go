package runtime

import (
	"fmt"
	"os/exec"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/go-runc"
)

// Monitor stands where go-runc hands over every command it runs. It sends runc
// to the private bundle, and lets no container come into being whose bundle was
// not measured. Commands themselves are run by the monitor behind it.
type Monitor struct {
	next runc.ProcessMonitor

	mu       sync.Mutex
	measured map[string]*Measured
	// own holds the commands that were answered without a process.
	own map[*exec.Cmd]int
}

// Measured is a container whose launch was committed.
type Measured struct {
	// Bundle is containerd's bundle directory, Private ours.
	Bundle  string
	Private PrivateBundle
	// State is the OCI runtime's state directory of the container.
	State string
	// FastStart allows starting it by its exec fifo.
	FastStart bool
	// FastDelete allows deleting it without runc.
	FastDelete bool

	mu  sync.Mutex
	pid int
}

// SetPid makes init's pid known; 0 while there is none.
func (m *Measured) SetPid(pid int) {
	m.mu.Lock()
	m.pid = pid
	m.mu.Unlock()
}

// Pid is init's pid, 0 while it is unknown.
func (m *Measured) Pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pid
}

var _ runc.ProcessMonitor = (*Monitor)(nil)

// NewMonitor returns a monitor in front of next.
func NewMonitor(next runc.ProcessMonitor) *Monitor {
	return &Monitor{next: next, measured: map[string]*Measured{}, own: map[*exec.Cmd]int{}}
}

// Admit lets runc create or restore from m.Bundle.
func (m *Monitor) Admit(c *Measured) {
	m.mu.Lock()
	m.measured[c.Bundle] = c
	m.mu.Unlock()
}

// Forget ends what Admit began. It may be called twice.
func (m *Monitor) Forget(bundle string) {
	m.mu.Lock()
	delete(m.measured, bundle)
	m.mu.Unlock()
}

func (m *Monitor) lookup(bundle string) *Measured {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.measured[bundle]
}

// Start runs the command, see Monitor.
func (m *Monitor) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	return m.start(cmd, m.next.Start)
}

// StartLocked runs the command from a locked thread, see Monitor.
func (m *Monitor) StartLocked(cmd *exec.Cmd) (chan runc.Exit, error) {
	return m.start(cmd, m.next.StartLocked)
}

func (m *Monitor) start(cmd *exec.Cmd, next func(*exec.Cmd) (chan runc.Exit, error)) (chan runc.Exit, error) {
	c := parseCommand(cmd.Args)
	switch {
	case c.makes():
		if c.bundle == 0 {
			return nil, fmt.Errorf("runc %s without a bundle: %w", c.name, errdefs.ErrPermissionDenied)
		}
		dir := c.args[c.bundle]
		admitted := m.lookup(dir)
		if admitted == nil {
			return nil, fmt.Errorf("runc %s of %s, which was not measured: %w", c.name, dir, errdefs.ErrPermissionDenied)
		}
		cmd.Args[c.bundle] = admitted.Private.Dir
	case c.name == "start":
		if admitted := m.byState(c.stateDir()); admitted != nil && admitted.FastStart {
			if done, err := startByFifo(c.stateDir(), admitted.Pid()); done {
				return m.answered(cmd, err)
			}
		}
	case c.name == "delete" && !c.forced:
		if admitted := m.byState(c.stateDir()); admitted != nil && admitted.FastDelete && deleteByHand(c.stateDir(), admitted.Pid()) {
			return m.answered(cmd, nil)
		}
	}
	return next(cmd)
}

// answered takes note of a command that was carried out without a process.
func (m *Monitor) answered(cmd *exec.Cmd, err error) (chan runc.Exit, error) {
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.own[cmd] = 0
	m.mu.Unlock()
	return make(chan runc.Exit), nil
}

func (m *Monitor) byState(dir string) *Measured {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.measured {
		if c.State == dir {
			return c
		}
	}
	return nil
}

// Wait waits for a command that Start or StartLocked began.
func (m *Monitor) Wait(cmd *exec.Cmd, exits chan runc.Exit) (int, error) {
	m.mu.Lock()
	status, own := m.own[cmd]
	delete(m.own, cmd)
	m.mu.Unlock()
	if own {
		return status, nil
	}
	return m.next.Wait(cmd, exits)
}
