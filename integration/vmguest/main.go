// Command vmguest runs inside the virtual machines of the tests, started by
// init, and runs the commands that arrive on a virtio port.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sealift/sealift/integration/vm/wire"
)

func main() {
	// Commands are looked up in the PATH that they get.
	if err := os.Setenv("PATH", strings.TrimPrefix(environment[0], "PATH=")); err != nil {
		fmt.Fprintln(os.Stderr, "vmguest:", err)
		os.Exit(1)
	}
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: vmguest NAME-OF-PORT")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "vmguest:", err)
		os.Exit(1)
	}
}

// environment is what every command starts with.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb",
}

type guest struct {
	conn *wire.Conn

	mu      sync.Mutex
	running map[uint64]*os.Process
}

// serve runs until the port fails. It returns only with an error.
func serve(name string) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	p, err := openPort(name)
	if err != nil {
		return err
	}
	g := &guest{conn: wire.New(p), running: map[uint64]*os.Process{}}
	if err := g.conn.Send(wire.Message{Op: wire.OpReady, Boot: strings.TrimSpace(string(boot))}); err != nil {
		return err
	}
	for {
		m, err := g.conn.Receive()
		if err != nil {
			return err
		}
		switch m.Op {
		case wire.OpRun:
			go g.run(m)
		case wire.OpKill:
			g.kill(m.ID)
		}
	}
}

// port is a virtio port that does not end when nobody is at the other side.
type port struct{ *os.File }

// openPort opens the port that has the name, and waits for it: the device may
// appear after us.
func openPort(name string) (*port, error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ports, err := filepath.Glob("/sys/class/virtio-ports/*")
		if err != nil {
			return nil, err
		}
		for _, p := range ports {
			found, err := os.ReadFile(filepath.Join(p, "name"))
			if err != nil || strings.TrimSpace(string(found)) != name {
				continue
			}
			f, err := os.OpenFile(filepath.Join("/dev", filepath.Base(p)), os.O_RDWR, 0)
			if err == nil {
				return &port{f}, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return nil, fmt.Errorf("virtio port %s: %w", name, fs.ErrNotExist)
}

func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := p.File.Read(b)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// run runs one command, in a process group of its own, and reports its end
// after the last of its output.
func (g *guest) run(m wire.Message) {
	end := wire.Message{Op: wire.OpExit, ID: m.ID}
	cmd := exec.Command(m.Args[0], m.Args[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(slices.Clone(environment), m.Env...)
	cmd.Stdin = bytes.NewReader(m.Stdin)
	cmd.Stdout, cmd.Stderr = &stream{g, m.ID, 1}, &stream{g, m.ID, 2}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Something that stays may hold the output open for ever.
	cmd.WaitDelay = 2 * time.Second
	g.mu.Lock()
	err := cmd.Start()
	if err == nil {
		g.running[m.ID] = cmd.Process
	}
	g.mu.Unlock()
	if err == nil {
		err = cmd.Wait()
		g.mu.Lock()
		delete(g.running, m.ID)
		g.mu.Unlock()
	}
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
	case errors.As(err, &exit):
		end.Status = exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			end.Status = 128 + int(ws.Signal())
		}
	default:
		end.Error = err.Error()
	}
	g.send(end)
}

// send ends the program where the port fails: init starts it again, and the
// other side learns from the new "ready".
func (g *guest) send(m wire.Message) {
	if err := g.conn.Send(m); err != nil {
		fmt.Fprintln(os.Stderr, "vmguest:", err)
		os.Exit(1)
	}
}

func (g *guest) kill(id uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p, ok := g.running[id]; ok {
		syscall.Kill(-p.Pid, syscall.SIGKILL) // gone already: as good
	}
}

// stream sends what is written to it.
type stream struct {
	g      *guest
	id     uint64
	number int
}

func (s *stream) Write(b []byte) (int, error) {
	s.g.send(wire.Message{Op: wire.OpOutput, ID: s.id, Stream: s.number, Data: b})
	return len(b), nil
}
