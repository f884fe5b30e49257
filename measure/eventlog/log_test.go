package eventlog_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

const (
	pcr  = 13
	boot = "11111111-2222-3333-4444-555555555555"
)

// config is what tests open a log with; the device is closed at the end.
func config(t testing.TB, dir, device string) eventlog.Config {
	t.Helper()
	// No test of what a good TPM does is about how busy the machine is.
	return configWithin(t, dir, device, time.Minute)
}

// configWithin is config with a TPM that is given up on after a time.
func configWithin(t testing.TB, dir, device string, timeout time.Duration) eventlog.Config {
	t.Helper()
	d, err := tpm.OpenWith(t.Context(), device, tpm.Options{Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return eventlog.Config{
		Dir: dir, Device: d, PCR: pcr, BootID: boot, Instance: "host-a",
		Timeout: timeout, Watch: -1,
	}
}

func open(t testing.TB, c eventlog.Config) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func closeLog(t testing.TB, l *eventlog.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func event(ns, id string) eventlog.Event {
	return eventlog.Event{Type: "launch", Namespace: ns, Container: id, Body: map[string]string{"image": "busybox"}, Start: true}
}

func add(t testing.TB, l *eventlog.Log, e eventlog.Event) uint64 {
	t.Helper()
	seq, err := l.Append(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func readPCR(t testing.TB, c eventlog.Config) tpm.Values {
	t.Helper()
	v, err := c.Device.ReadPCR(t.Context(), pcr)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAppendAndReopen(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	l := open(t, c)
	if s := l.State(); s.Name != eventlog.Trusted || !s.AllowsStarts() || s.Seq != 1 {
		t.Fatalf("first state %+v", s)
	}
	for i := range 3 {
		if seq := add(t, l, event("default", fmt.Sprint(i))); seq != uint64(i)+2 {
			t.Errorf("append %d got seq %d", i, seq)
		}
	}
	if s := l.State(); !s.Head.Equal(readPCR(t, c)) {
		t.Errorf("head %v, PCR %v", s.Head, readPCR(t, c))
	}
	first := l.State()
	closeLog(t, l)
	l = open(t, c)
	if s := l.State(); s.Name != eventlog.Trusted || s.Epoch != first.Epoch || s.Seq != 4 {
		t.Fatalf("state after reopening %+v", s)
	}
	if seq := add(t, l, event("default", "again")); seq != 5 {
		t.Errorf("seq %d after reopening", seq)
	}
}

func TestGroupCommit(t *testing.T) {
	x := swtpmtest.Start(t)
	p := swtpmtest.NewProxy(t, x)
	c := config(t, t.TempDir(), p.Device())
	l := open(t, c)
	p.Delay(swtpmtest.PCRExtend, 10*time.Millisecond)
	before := p.Count(swtpmtest.PCRExtend)
	barrier := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			<-barrier
			if _, err := l.Append(t.Context(), event(fmt.Sprint("ns", i%4), fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	close(barrier)
	wg.Wait()
	n := p.Count(swtpmtest.PCRExtend) - before
	t.Logf("100 concurrent events took %d extends", n)
	if n > 5 {
		t.Errorf("%d extends", n)
	}
	if s := l.State(); s.Seq != 101 || !s.Head.Equal(readPCR(t, c)) {
		t.Errorf("state %+v", s)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	open(t, c)
	var locked *eventlog.LockedError
	if _, err := eventlog.Open(t.Context(), c); !errors.As(err, &locked) {
		t.Fatalf("second open: %v", err)
	}
}
