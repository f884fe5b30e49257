package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	keeperName = "sealift-test-keeper"
	initName   = "sealift-test-init"
	innerName  = "sealift-test-inner"
	planEnv    = "SEALIFT_TEST_HOST"
	controlFD  = 3
)

// plan is what keeper and init are told.
type plan struct {
	Name, MachineID, Rootfs, Dir string
	Binds                        []Bind
	Cgroups                      []cgroup
}

var reexecCalled bool

// Reexec must be the first call of main or TestMain in a program that makes
// hosts: where the process is a keeper or an init, it does that work and does
// not return.
func Reexec() {
	reexecCalled = true
	var work func(plan) error
	switch os.Args[0] {
	case keeperName:
		work = keep
	case initName:
		work = enterCgroups
	case innerName:
		work = serve
	default:
		return
	}
	var p plan
	err := json.Unmarshal([]byte(os.Getenv(planEnv)), &p)
	if err == nil {
		err = work(p)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", strings.TrimPrefix(os.Args[0], "sealift-test-"), err)
		os.Exit(1)
	}
	os.Exit(0)
}

// keep makes what the machine has of a host, runs the init, and when that has
// ended removes it all again.
func keep(p plan) (err error) {
	// The terminal's signals are for the maker: its end is what ends the host.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	// The init's parent-death signal is tied to this thread.
	runtime.LockOSThread()
	// The maker's side must be the only one left when the init has its own.
	control := os.NewFile(controlFD, "control")
	unix.CloseOnExec(controlFD)

	defer func() { err = errors.Join(err, removeAll(p)) }()
	for _, d := range []string{"upper", "work", "root", "plain", "log"} {
		if err := os.MkdirAll(filepath.Join(p.Dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, c := range p.Cgroups {
		if err := c.make(); err != nil {
			return err
		}
	}
	init := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{initName}, Env: os.Environ(),
		ExtraFiles: []*os.File{control}, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			Pdeathsig:  unix.SIGKILL,
		},
	}
	if err := init.Start(); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	control.Close()
	fmt.Println(init.Process.Pid)
	if err := init.Wait(); err != nil {
		return fmt.Errorf("the host's init: %w", err)
	}
	return nil
}

// removeAll runs after the kernel has ended every process of the host, and its
// mounts with them.
func removeAll(p plan) error {
	var errs []error
	for _, c := range p.Cgroups {
		errs = append(errs, c.remove())
	}
	return errors.Join(append(errs, os.RemoveAll(p.Dir))...)
}

// enterCgroups is the init's first half: it moves itself into the host's
// cgroups, makes them the roots of what it can see, and starts itself again,
// because only the calling thread has changed its namespace.
func enterCgroups(p plan) error {
	runtime.LockOSThread()
	for _, c := range p.Cgroups {
		if err := c.enter(c.Dir); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	for _, c := range p.Cgroups {
		if err := c.settle(); err != nil {
			return err
		}
	}
	return unix.Exec("/proc/self/exe", []string{innerName}, os.Environ())
}
