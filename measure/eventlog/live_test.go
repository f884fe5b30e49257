package eventlog_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

func TestForeignExtendWhileRunning(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	l := open(t, c)
	add(t, l, event("default", "a"))
	foreign(t, c)
	var refused *eventlog.StateError
	if _, err := l.Append(t.Context(), event("default", "b")); !errors.As(err, &refused) || refused.State.Name != eventlog.Foreign {
		t.Fatalf("start after a foreign extend: %v", err)
	}
	if _, err := l.Append(t.Context(), eventlog.Event{Type: "note"}); err != nil {
		t.Fatal(err)
	}
	r := verify(t, c.Dir, readPCR(t, c))
	if r.Match != eventlog.MatchEnd || r.ProvenFrom != 3 || r.Proven() || r.State != eventlog.Foreign {
		t.Errorf("replay %+v", r)
	}
	if _, err := l.Acknowledge(t.Context(), "history-lost", "wrong state"); err == nil {
		t.Error("a state that is not there was acknowledged")
	}
	if _, err := l.Acknowledge(t.Context(), "foreign", "it was me"); err != nil {
		t.Fatal(err)
	}
	add(t, l, event("default", "c"))
	// The next foreign extend needs a word of its own.
	foreign(t, c)
	if _, err := l.Append(t.Context(), event("default", "d")); !errors.As(err, &refused) {
		t.Fatalf("start after a second foreign extend: %v", err)
	}
	closeLog(t, l)
	l = open(t, c)
	if s := l.State(); s.Name != eventlog.Foreign || s.Acknowledged {
		t.Errorf("after a restart %+v", s)
	}
}

// Idle logs notice too.
func TestWatchFindsForeignExtend(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	c.Watch = 10 * time.Millisecond
	l := open(t, c)
	foreign(t, c)
	await(t, l, eventlog.Foreign)
	await(t, l, eventlog.Foreign, func() bool { return verify(t, c.Dir, readPCR(t, c)).Match == eventlog.MatchEnd })
}

func await(t testing.TB, l *eventlog.Log, want eventlog.Name, more ...func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		ok := l.State().Name == want
		for _, f := range more {
			ok = ok && f()
		}
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("state stays %+v, want %s", l.State(), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The TPM is killed and comes back under a running agent: nothing is committed
// in between, and a new epoch begins.
func TestTPMRestartWhileRunning(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	c.Running = func(context.Context) ([]eventlog.Container, error) {
		return []eventlog.Container{{"default", "survivor"}}, nil
	}
	l := open(t, c)
	add(t, l, event("default", "a"))
	first := l.State()
	seen := make(chan string, 100)
	go func() {
		done := l.Read(context.Background(), 0, true, func(_ uint64, line []byte) error {
			seen <- string(line)
			return nil
		})
		if done != nil {
			t.Error(done)
		}
		close(seen)
	}()
	x.Kill()
	_, err := l.Append(t.Context(), event("default", "b"))
	var away *eventlog.UnavailableError
	if !errors.As(err, &away) || away.State.Cause != eventlog.CauseTPM || !strings.Contains(err.Error(), "hint:") {
		t.Fatalf("append without a TPM: %v", err)
	}
	refusedAtOnce(t, func() error {
		_, err := l.Append(t.Context(), event("default", "b"))
		return err
	})
	if s := l.State(); s.Name != eventlog.Unavailable || s.AllowsStarts() {
		t.Errorf("state %+v", s)
	}
	x.Restart()
	await(t, l, eventlog.TPMReset)
	add(t, l, event("default", "c"))
	if s := l.State(); s.Epoch == first.Epoch {
		t.Errorf("no new epoch: %+v", s)
	}
	text := stored(t, c.Dir)
	if !bytes.Contains(text, []byte("survivor")) || !bytes.Contains(text, []byte(first.Epoch.String())) {
		t.Errorf("new epoch")
	}
	if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd {
		t.Errorf("replay %+v", r)
	}
	closeLog(t, l)
	var all strings.Builder
	for s := range seen {
		all.WriteString(s)
	}
	if got := all.String(); !strings.Contains(got, "survivor") || !strings.Contains(got, `"container":"c"`) || !strings.Contains(got, `"container":"a"`) {
		t.Errorf("follow did not go on into the new epoch: %s", got)
	}
}

// An epoch that began and never got into the TPM does not hide why it began,
// and one that somebody puts beside a good log does not spoil it.
func TestUnbornEpoch(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	l := open(t, c)
	add(t, l, event("default", "a"))
	first := l.State()
	closeLog(t, l)

	// The first batch of another epoch, made by a log whose TPM is gone by then.
	other := config(t, t.TempDir(), x.Device())
	other.Device = forgetful{other.Device}
	if _, err := eventlog.Open(t.Context(), other); err == nil {
		t.Fatal("an epoch began without the TPM")
	}
	dirs, err := filepath.Glob(filepath.Join(other.Dir, "epochs", "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	unborn := filepath.Join(c.Dir, "epochs", "00000002-"+strings.Repeat("0", 16))
	if err := os.CopyFS(unborn, os.DirFS(dirs[0])); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		l = open(t, c)
		if s := l.State(); s.Name != eventlog.Recovered || s.Epoch != first.Epoch || !s.AllowsStarts() {
			t.Fatalf("beside an unborn epoch: %+v", s)
		}
		add(t, l, event("default", "b"))
		closeLog(t, l)
		lines, err := eventlog.Lines(c.Dir, first.Epoch.String())
		if err != nil {
			t.Fatal(err)
		}
		r, err := eventlog.Verify(lines, readPCR(t, c))
		if err != nil || r.Match != eventlog.MatchEnd || r.Records != uint64(4+i) {
			t.Errorf("replay %+v, %v", r, err)
		}
	}

	x.Restart()
	c.Device = forgetful{c.Device}
	if _, err := eventlog.Open(t.Context(), c); err == nil {
		t.Fatal("an epoch began without the TPM")
	}
	c.Device = c.Device.(forgetful).Device
	l = open(t, c)
	if s := l.State(); s.Name != eventlog.TPMReset || s.Cause != eventlog.TPMRestarted {
		t.Errorf("after an epoch that could not begin: %+v", s)
	}
}

// What is opened is closed again: descriptors and goroutines stay as they were.
func TestNothingLeaks(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	count := func() (int, int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds), runtime.NumGoroutine()
	}
	closeLog(t, open(t, c))
	fds, routines := count()
	for range 20 {
		l := open(t, c)
		add(t, l, event("default", "a"))
		closeLog(t, l)
	}
	// The idle socket is let go a moment later; a leak stays.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		f, r := count()
		if f <= fds && r <= routines {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors and %d goroutines, before %d and %d", f, r, fds, routines)
		}
	}
}
