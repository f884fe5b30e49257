package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execFifo is the fifo in runc's state directory that init of a created
// container waits at: it opens it for writing and goes on once somebody reads.
const execFifo = "exec.fifo"

// startLimit bounds how long init may take from the fifo's opening to its byte.
const startLimit = 30 * time.Second

// CanStartByFifo says whether "runc start" would do nothing for this container
// but read its exec fifo: runc itself, and no hooks that belong to the start.
func CanStartByFifo(binary string, spec *specs.Spec) bool {
	return isRunc(binary) && (spec.Hooks == nil || len(spec.Hooks.Poststart) == 0)
}

func isRunc(binary string) bool { return binary == "" || filepath.Base(binary) == "runc" }

// startByFifo starts a created container whose init has the given pid. When it
// returns false nothing has happened and "runc start" is to be run, which also
// knows best how to say what is wrong. When it returns true the container was
// started, or the error says why not.
func startByFifo(stateDir string, pid int) (bool, error) {
	if pid <= 0 {
		return false, nil
	}
	init, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil
	}
	defer unix.Close(init)
	path := filepath.Join(stateDir, execFifo)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return false, nil
	}
	// From here on init may run.
	fifo, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, nil
	}
	defer unix.Close(fifo)
	if err := awaitByte(fifo, init); err != nil {
		return true, err
	}
	// runc takes a container with its fifo for one that has not been started.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, fmt.Errorf("exec fifo: %w", err)
	}
	return true, nil
}

var errInitDied = errors.New("container init died before it was started")

// awaitByte waits for the byte by which init says that it goes on.
func awaitByte(fifo, init int) error {
	end := time.Now().Add(startLimit)
	for {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("exec fifo: init did not go on within %v", startLimit)
		}
		fds := []unix.PollFd{{Fd: int32(fifo), Events: unix.POLLIN}, {Fd: int32(init), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("exec fifo: %w", err)
		}
		// Init may have run and ended already: its byte is read first.
		var b [8]byte
		n, err := unix.Read(fifo, b[:])
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("exec fifo: %w", err)
		case fds[1].Revents != 0:
			return errInitDied
		}
	}
}
