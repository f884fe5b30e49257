package tree

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ClockWatch notices that the wall clock was set. Change times are taken from
// it: after a step back, a file can change and have the change time it had.
// Slewing, as NTP does it, is no step.
type ClockWatch struct {
	mu    sync.Mutex
	fd    int
	epoch uint64
}

// NewClockWatch begins to watch. The error wraps the kernel's.
func NewClockWatch() (*ClockWatch, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("clock watch: %w", os.NewSyscallError("timerfd_create", err))
	}
	// The timer itself is never to fire; only its cancellation is of interest
	// (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32}}
	never.Value.Sec *= 4
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("clock watch: %w", os.NewSyscallError("timerfd_settime", err))
	}
	return &ClockWatch{fd: fd, epoch: 1}, nil
}

// Epoch is a number that grows with every step of the clock, and is 0 once the
// watch is closed or cannot tell: equal epochs that are not 0 mean that the
// clock was not set in between.
func (c *ClockWatch) Epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return 0
	}
	var buf [8]byte
	for {
		_, err := unix.Read(c.fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return c.epoch
		case err == nil, errors.Is(err, unix.ECANCELED):
			c.epoch++
			return c.epoch
		}
		return 0
	}
}

// Close ends the watch. It may be called more than once.
func (c *ClockWatch) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

// processClock is the watch all bindings of this process share: it must have
// been there before the first of them.
var processClock = sync.OnceValue(func() *ClockWatch {
	c, err := NewClockWatch()
	if err != nil {
		return nil
	}
	return c
})

// clockEpoch is 0 where steps cannot be noticed; then nothing is bound.
func clockEpoch() uint64 {
	if c := processClock(); c != nil {
		return c.Epoch()
	}
	return 0
}
