package host

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// environment is what every command inside starts with.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb",
}

// server is the init inside: it starts and signals what the maker asks for, and
// reaps everything, orphans too.
type server struct {
	c *net.UnixConn

	// mu is held from a fork until its process is in running: the reaper must
	// not see an end before it knows the beginning.
	mu      sync.Mutex
	running map[int]uint64
}

// serve makes the host's file tree and serves until the maker is gone. Its
// return ends the pid namespace and everything in it.
func serve(p plan) error {
	control := os.NewFile(controlFD, "control")
	unix.CloseOnExec(controlFD)
	c, err := net.FileConn(control)
	if err != nil {
		return err
	}
	control.Close()
	os.Unsetenv(planEnv)
	if err := enterRoot(p); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(p.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	s := &server{c: c.(*net.UnixConn), running: map[int]uint64{}}
	children := make(chan os.Signal, 16)
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for range children {
			s.reap()
		}
	}()
	if err := send(s.c, message{Op: "ready"}); err != nil {
		return err
	}
	for {
		m, files, err := receive(s.c)
		if err != nil {
			return nil // the maker is gone, whatever the reason
		}
		switch m.Op {
		case "start":
			s.start(m, files)
		case "signal":
			s.signal(m)
		}
		closeAll(files)
	}
}

func (s *server) start(m message, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := fork(m, files)
	reply := message{Op: "started", ID: m.ID, PID: pid}
	if err != nil {
		reply.Error = err.Error()
	} else {
		s.running[pid] = m.ID
	}
	s.reply(reply)
}

func (s *server) reply(m message) {
	// A maker that is gone is noticed by the reading side.
	if err := send(s.c, m); err != nil && !errors.Is(err, unix.EPIPE) {
		fmt.Fprintf(os.Stderr, "init: reply: %v\n", err)
	}
}

// fork avoids package os: its handles would compete with the reaper.
func fork(m message, files []*os.File) (int, error) {
	if len(files) != 3 || len(m.Args) == 0 {
		return 0, fmt.Errorf("%d descriptors, %d arguments: %w", len(files), len(m.Args), unix.EINVAL)
	}
	env := append(append([]string{}, environment...), m.Env...)
	path, err := lookPath(m.Args[0])
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(path, m.Args, &syscall.ProcAttr{
		Dir: m.Dir, Env: env,
		Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

func lookPath(name string) (string, error) {
	if name[0] == '/' {
		return name, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"} {
		if unix.Access(dir+"/"+name, unix.X_OK) == nil {
			return dir + "/" + name, nil
		}
	}
	return "", fmt.Errorf("%s: not in the host's PATH: %w", name, unix.ENOENT)
}

func (s *server) signal(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.running[m.PID]; ok {
		unix.Kill(m.PID, unix.Signal(m.Signal)) // gone already: as good
	}
}

func (s *server) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		id, ok := s.running[pid]
		if !ok {
			continue
		}
		delete(s.running, pid)
		status := ws.ExitStatus()
		if ws.Signaled() {
			status = 128 + int(ws.Signal())
		}
		s.reply(message{Op: "exited", ID: id, Status: status})
	}
}

// loopbackUp is done first of all: without it CRIU's probes of the kernel fail.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
