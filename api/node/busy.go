package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An agent that measures an image on a machine with too few CPUs may answer
// late. That is not an agent that hangs or was stopped: its process works.
const (
	// busy is the CPU time that an agent at work uses in DialTimeout at least; one
	// that waits for something uses next to none.
	busy = DialTimeout / 50
	// patience bounds the waiting for an agent that works and does not answer.
	patience = 30 * time.Second
)

// errSilent is the cause of a context that Answering ended.
var errSilent = errors.New("no answer")

// Answering calls ask, whose context ends when it has lasted for DialTimeout,
// unless the agent's process is at work.
func (c *Client) Answering(ctx context.Context, ask func(context.Context) error) error {
	return answering(ctx, c.pid, ask)
}

func answering(ctx context.Context, pid int, ask func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		used, begun := cpuTime(pid), time.Now()
		for t := time.NewTicker(DialTimeout); ; {
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
			before := used
			if used = cpuTime(pid); used-before < busy || time.Since(begun) > patience {
				cancel(fmt.Errorf("%w within %s", errSilent, time.Since(begun).Round(100*time.Millisecond)))
			}
		}
	}()
	err := ask(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errSilent) {
		return cause
	}
	return err
}

// cpuTime is what a process has used so far (proc_pid_stat(5), utime and stime);
// 0 where that cannot be read.
func cpuTime(pid int) time.Duration {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The second field is the command in parentheses, with whatever it has in it.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / userHZ)
}

// userHZ is the unit of /proc's times on every architecture Go runs on.
const userHZ = 100

// server is the process that listens at the other end (unix(7), SO_PEERCRED).
func server(c *net.UnixConn) (pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	}); cerr != nil {
		return 0, cerr
	}
	return pid, err
}
