package tree

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A ctime from the future is not waited for and keeps the tree unbound: a change
// until then could leave it as it is.
func TestChangeTimeInTheFuture(t *testing.T) {
	m := &measurer{before: coarseNow()}
	future := identity{ctime: coarseNow() + int64(time.Hour)}
	if m.waitTick(future.ctime) { // it would take an hour
		t.Error("waited for the future")
	}
	if !m.fresh(&future) {
		t.Error("a ctime from the future counts as past")
	}
	tick := identity{ctime: coarseNow()}
	if !m.waitTick(tick.ctime) || m.fresh(&tick) {
		t.Error("the current tick was not waited for")
	}
	if past := (identity{ctime: m.before - 1}); m.waitTick(past.ctime) || m.fresh(&past) {
		t.Error("waited for the past")
	}
}

// Real steps of the clock are for a virtual machine: here the kernel's answer
// is played by a descriptor that becomes readable.
func TestClockWatch(t *testing.T) {
	c, err := NewClockWatch()
	if err != nil {
		t.Fatal(err)
	}
	first := c.Epoch()
	if first == 0 || c.Epoch() != first {
		t.Fatalf("the epoch moves by itself from %d", first)
	}
	step, err := unix.Eventfd(1, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(step, c.fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(step); err != nil {
		t.Fatal(err)
	}
	if c.Epoch() == first {
		t.Error("a step was not noticed")
	}
	if second := c.Epoch(); second != c.Epoch() {
		t.Error("one step was noticed twice")
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if c.Epoch() != 0 {
		t.Error("a closed watch still says something")
	}
}

// A binding from before a step proves nothing.
func TestStepVoidsBindings(t *testing.T) {
	res, err := Measure(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Binding.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	res.Binding.clock--
	var moved *MovedError
	if err := res.Binding.Check(t.Context()); !errors.As(err, &moved) {
		t.Errorf("got %v", err)
	}
}
