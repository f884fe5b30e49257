// Package host makes test hosts: a Debian of its own inside this machine, with
// namespaces for mounts, network, processes, cgroups, host name and IPC around
// an overlay on a shared root file system. Inside, daemons and containers run
// as on a machine; when a host is closed, or the process that made it dies in
// any way, nothing of it stays.
//
// A host is two processes of the program that made it, started again under
// another name. The keeper stays outside: it makes the host's cgroups and
// scratch directory, waits, and removes them. The init is process 1 inside; it
// starts what it is asked to over a socket, and ends, and with it the kernel
// ends everything inside, when that socket's other end is closed.
package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bind makes a file or directory of the machine visible inside, read-only
// unless Writable.
type Bind struct {
	Source, Target string
	Writable       bool
}

// Options say what a host is made from.
type Options struct {
	// Name is the host name, and part of the names of its cgroups. A random
	// ending is added.
	Name string
	// Rootfs is a Debian root file system. It is not written to.
	Rootfs string
	// Scratch is a directory, not on overlayfs or tmpfs, below which the host
	// gets one of its own for all that it writes.
	Scratch string
	Binds   []Bind
}

// plain are directories that are empty and not on the host's overlay: what
// daemons keep there must be able to have an overlay on top, and leases.
var plain = []string{"/var/lib", "/srv"}

// patience bounds what takes no time on a quiet machine; only what never happens
// takes as long.
const patience = time.Minute

// Host is a running test host. Its methods are safe for concurrent use.
type Host struct {
	Name string
	// PID is that of the host's init as the machine sees it: /proc/PID/ns has
	// the host's namespaces, /proc/PID/root its files.
	PID int
	// Logs is a directory of the machine that holds the daemons' output.
	Logs string

	dir     string
	conn    *client
	keeper  *exec.Cmd
	stderr  *bytes.Buffer
	closed  sync.Once
	failure error
}

// New makes and starts a host. The program must have called Reexec first. The
// error wraps fs.ErrPermission where the caller is not root.
func New(ctx context.Context, o Options) (*Host, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("test host %s: %w", o.Name, fs.ErrPermission)
	}
	if !reexecCalled {
		return nil, errors.New("host.Reexec was not called at the start of this program")
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	h := &Host{Name: o.Name + "-" + hex.EncodeToString(id[:3]), stderr: new(bytes.Buffer)}
	h.dir = filepath.Join(o.Scratch, h.Name)
	h.Logs = filepath.Join(h.dir, "log")
	cgroups, err := planCgroups(h.Name)
	if err != nil {
		return nil, err
	}
	plan := plan{
		Name: h.Name, MachineID: hex.EncodeToString(id), Rootfs: o.Rootfs,
		Dir: h.dir, Binds: o.Binds, Cgroups: cgroups,
	}
	if err := h.start(plan); err != nil {
		return nil, fmt.Errorf("test host %s: %w", h.Name, err)
	}
	return h, nil
}

// start runs the keeper and waits until the init inside says that it is ready.
func (h *Host) start(p plan) error {
	ours, theirs, err := socketpair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	spec, err := json.Marshal(p)
	if err != nil {
		return err
	}
	h.keeper = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{keeperName},
		Env:         append(os.Environ(), planEnv+"="+string(spec)),
		ExtraFiles:  []*os.File{theirs},
		Stderr:      h.stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	status, err := h.keeper.StdoutPipe()
	if err != nil {
		return err
	}
	if err := h.keeper.Start(); err != nil {
		ours.Close()
		return err
	}
	theirs.Close()
	h.conn = newClient(ours)
	if _, err := fmt.Fscan(status, &h.PID); err != nil {
		return errors.Join(errors.New("the keeper did not start"), h.Close())
	}
	go io.Copy(io.Discard, status)
	select {
	case <-h.conn.ready:
		return nil
	case <-h.conn.gone:
		return errors.Join(errors.New("the host did not come up"), h.Close())
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the host did not come up within %s", patience), h.Close())
	}
}

// Close ends everything inside, removes the host and all that it wrote, and
// says what could not be removed. It may be called more than once.
func (h *Host) Close() error {
	h.closed.Do(func() {
		h.conn.close()
		if err := h.keeper.Wait(); err != nil {
			h.failure = fmt.Errorf("test host %s: %w\n%s", h.Name, err, h.stderr)
		}
	})
	return h.failure
}

// Run runs a command inside to its end and returns what it wrote to standard
// output. Its error is an *ExitError when the command ended badly.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	return h.RunCmd(ctx, Cmd{Args: args})
}

// RunCmd is Run for a command with more to say about. Where c.Stdout is set,
// the output goes there and the string is empty. A context that ends kills the
// command.
func (h *Host) RunCmd(ctx context.Context, c Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &stdout
	}
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	p, err := h.Start(c)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { p.Signal(unix.SIGKILL) })
	status, err := p.Wait()
	stop()
	if err != nil {
		return stdout.String(), err
	}
	if ctx.Err() != nil {
		return stdout.String(), fmt.Errorf("%s on %s: %w\n%s%s", strings.Join(c.Args, " "), h.Name, context.Cause(ctx), &stdout, &stderr)
	}
	if status != 0 {
		return stdout.String(), &ExitError{Host: h.Name, Args: c.Args, Status: status, Stdout: stdout.String(), Stderr: stderr.String()}
	}
	return stdout.String(), nil
}

// Shell runs a script of /bin/sh inside, which ends at its first error.
func (h *Host) Shell(ctx context.Context, script string) (string, error) {
	return h.Run(ctx, "/bin/sh", "-euc", script)
}

// WriteFile writes a file inside, with its parent directories.
func (h *Host) WriteFile(ctx context.Context, path string, content []byte, mode fs.FileMode) error {
	_, err := h.copyIn(ctx, path, bytes.NewReader(content), mode)
	return err
}

// CopyFile copies a file of the machine to inside, with its mode.
func (h *Host) CopyFile(ctx context.Context, source, target string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = h.copyIn(ctx, target, f, st.Mode())
	return err
}

// copyIn writes beside the target and renames: a running program's file can
// thus be replaced.
func (h *Host) copyIn(ctx context.Context, target string, r io.Reader, mode fs.FileMode) (string, error) {
	script := `mkdir -p "$(dirname "$1")" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"`
	return h.RunCmd(ctx, Cmd{Args: []string{"/bin/sh", "-euc", script, "sh", target, fmt.Sprintf("%o", mode.Perm())}, Stdin: r})
}

// ReadFile reads a file inside.
func (h *Host) ReadFile(ctx context.Context, path string) ([]byte, error) {
	out, err := h.Run(ctx, "cat", path)
	return []byte(out), err
}

// ExitError is a command inside that did not end with status 0. Status is
// 128+n for one that signal n ended.
type ExitError struct {
	Host           string
	Args           []string
	Status         int
	Stdout, Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s on %s: exit status %d\n%s%s", strings.Join(e.Args, " "), e.Host, e.Status, e.Stdout, e.Stderr)
}

// Output is all that the command wrote.
func (e *ExitError) Output() string { return e.Stdout + e.Stderr }

func socketpair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}
