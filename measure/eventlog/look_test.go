package eventlog_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// What is in the TPM at the time of a Look can be read after it: a quote between
// the two is explained by the lines. Without one it need not be.
func TestLookWaitsForWhatIsInTheTPM(t *testing.T) {
	p := swtpmtest.NewProxy(t, swtpmtest.Start(t))
	c := config(t, t.TempDir(), p.Device())
	c.Watch = -1
	l := open(t, c)
	held, release := make(chan struct{}), make(chan struct{})
	p.Set(nil, func(code uint32) {
		if code == swtpmtest.PCRExtend {
			close(held)
			<-release
		}
	})
	appended := make(chan error, 1)
	go func() {
		_, err := l.Append(t.Context(), event("default", "a"))
		appended <- err
	}()
	<-held // extended; the log does not know yet
	if n := count(t, l); n != 1 {
		t.Fatalf("%d records can be read while the extend's reply is held: the naive reader is not shown to fail", n)
	}
	looked := make(chan error, 1)
	go func() { looked <- l.Look(t.Context()) }()
	select {
	case err := <-looked:
		t.Fatalf("Look returned while a batch was under way: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	p.Set(nil, nil)
	close(release)
	if err := errors.Join(<-looked, <-appended); err != nil {
		t.Fatal(err)
	}
	if n := count(t, l); n != 2 {
		t.Errorf("%d records after Look, want 2", n)
	}
}

func count(t *testing.T, l *eventlog.Log) (last uint64) {
	t.Helper()
	if err := l.Read(t.Context(), 0, false, func(seq uint64, _ []byte) error { last = seq; return nil }); err != nil {
		t.Fatal(err)
	}
	return last
}

// A foreign extend is on record when Look returns, and not before somebody looks.
func TestLookFindsForeignExtend(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	c.Watch = -1
	l := open(t, c)
	foreign(t, c)
	if s := l.State(); s.Name != eventlog.Trusted {
		t.Fatalf("state before anybody looked: %+v", s)
	}
	if err := l.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, c.Dir, readPCR(t, c)); r.State != eventlog.Foreign || r.Match != eventlog.MatchEnd {
		t.Errorf("after a look: %+v", r)
	}
	x.Kill()
	var away *eventlog.UnavailableError
	if err := l.Look(t.Context()); !errors.As(err, &away) || away.State.Cause != eventlog.CauseTPM {
		t.Errorf("look at a dead TPM: %v", err)
	}
	closeLog(t, l)
	if err := l.Look(t.Context()); !errors.As(err, &away) {
		t.Errorf("look with a closed log: %v", err)
	}
}

// Whoever looks first after the TPM was restarted finds a new epoch, and nobody
// accused of an extend that the new epoch itself made.
func TestLookAfterARestart(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	c.Watch = -1
	l := open(t, c)
	if _, err := l.Append(t.Context(), event("default", "a")); err != nil {
		t.Fatal(err)
	}
	x.Restart()
	for range 3 {
		if err := l.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := l.State(); s.Name != eventlog.TPMReset || s.Cause != eventlog.TPMRestarted {
			t.Fatalf("the log calls itself %s (%s): %s", s.Name, s.Cause, s.Reason)
		}
	}
}
