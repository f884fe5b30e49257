package eventlog_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func segment(t testing.TB, dir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "epochs", "*", "*.log"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("segments of %s: %v, %v", dir, paths, err)
	}
	return paths[len(paths)-1]
}

func rewrite(t testing.TB, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// batchesOf cuts a segment's text behind each batch line.
func batchesOf(text []byte) [][]byte {
	var out [][]byte
	start, at := 0, 0
	for line := range bytes.Lines(text) {
		at += len(line)
		if bytes.HasPrefix(line, []byte(`{"batch"`)) {
			out = append(out, text[start:at])
			start = at
		}
	}
	return out
}

// Each of these happened to a stopped agent's log or TPM. Each ends in a state
// of its own; none is trusted; the running containers are listed as unproven.
func TestNamedStatesAtOpen(t *testing.T) {
	type bench struct {
		x   *swtpmtest.TPM
		c   eventlog.Config
		old string // an older copy of the whole directory
	}
	for name, k := range map[string]struct {
		harm  func(t *testing.T, b *bench)
		state eventlog.Name
		cause eventlog.Cause
	}{
		"swtpm killed and restarted": {
			func(t *testing.T, b *bench) { b.x.Restart() },
			eventlog.TPMReset, eventlog.TPMRestarted,
		},
		"swtpm killed, restarted and extended": {
			func(t *testing.T, b *bench) { b.x.Restart(); foreign(t, b.c) },
			eventlog.HistoryLost, eventlog.TPMRestarted,
		},
		"everything but the head file deleted, swtpm restarted": {
			func(t *testing.T, b *bench) {
				if err := os.RemoveAll(filepath.Join(b.c.Dir, "epochs")); err != nil {
					t.Fatal(err)
				}
				b.x.Restart()
			},
			eventlog.TPMReset, eventlog.TPMRestarted,
		},
		"swtpm state rolled back as well": {
			// One restart fewer than it had: resetCount is what the log says.
			func(t *testing.T, b *bench) {
				b.x.Kill()
				copyTree(t, filepath.Join(b.old, "tpm"), b.x.State)
				b.x.Restart()
			},
			eventlog.TPMReset, eventlog.PCRWasReset,
		},
		"epochs deleted": {
			func(t *testing.T, b *bench) {
				if err := os.RemoveAll(filepath.Join(b.c.Dir, "epochs")); err != nil {
					t.Fatal(err)
				}
			},
			eventlog.HistoryLost, eventlog.LogDeleted,
		},
		"everything deleted": {
			func(t *testing.T, b *bench) {
				if err := os.RemoveAll(b.c.Dir); err != nil {
					t.Fatal(err)
				}
			},
			eventlog.HistoryLost, eventlog.PCRNotInitial,
		},
		"segment deleted": {
			func(t *testing.T, b *bench) {
				if err := os.Remove(segment(t, b.c.Dir)); err != nil {
					t.Fatal(err)
				}
			},
			eventlog.HistoryLost, eventlog.LogDeleted,
		},
		"log rolled back": {
			func(t *testing.T, b *bench) {
				copyTree(t, filepath.Join(b.old, "log", "epochs"), filepath.Join(b.c.Dir, "epochs"))
			},
			eventlog.HistoryLost, eventlog.LogRolledBack,
		},
		"log and state rolled back": {
			func(t *testing.T, b *bench) { copyTree(t, filepath.Join(b.old, "log"), b.c.Dir) },
			eventlog.HistoryLost, eventlog.PCRAhead,
		},
		"foreign extend while no agent ran": {
			func(t *testing.T, b *bench) { foreign(t, b.c) },
			eventlog.HistoryLost, eventlog.PCRAhead,
		},
		"line altered": {
			func(t *testing.T, b *bench) {
				rewrite(t, segment(t, b.c.Dir), func(text []byte) []byte {
					return bytes.Replace(text, []byte("busybox"), []byte("busyb0x"), 1)
				})
			},
			// The PCR explains the batches before the changed line, and is ahead.
			eventlog.HistoryLost, eventlog.LogAltered,
		},
		"tail forged: one item that claims more": {
			func(t *testing.T, b *bench) {
				rewrite(t, segment(t, b.c.Dir), func(text []byte) []byte {
					all := batchesOf(text)
					return append(text, all[len(all)-1]...)
				})
			},
			eventlog.HistoryLost, eventlog.TailForged,
		},
		"tail forged: rubbish": {
			func(t *testing.T, b *bench) {
				rewrite(t, segment(t, b.c.Dir), func(text []byte) []byte { return append(text, "rubbish\n"...) })
			},
			eventlog.HistoryLost, eventlog.TailForged,
		},
		"tail forged: another segment": {
			func(t *testing.T, b *bench) {
				path := segment(t, b.c.Dir)
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				all := batchesOf(text)
				if err := os.WriteFile(filepath.Join(filepath.Dir(path), "000002.log"), all[0], 0o600); err != nil {
					t.Fatal(err)
				}
			},
			eventlog.HistoryLost, eventlog.TailForged,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bench{x: swtpmtest.Start(t), old: t.TempDir()}
			b.x.Kill()
			copyTree(t, b.x.State, filepath.Join(b.old, "tpm"))
			b.x.Restart()
			b.c = config(t, filepath.Join(t.TempDir(), "log"), b.x.Device())
			l := open(t, b.c)
			add(t, l, event("default", "a"))
			add(t, l, event("default", "b"))
			closeLog(t, l)
			copyTree(t, b.c.Dir, filepath.Join(b.old, "log"))
			l = open(t, b.c)
			add(t, l, event("default", "c"))
			add(t, l, event("default", "d"))
			before := l.State()
			closeLog(t, l)

			k.harm(t, b)
			b.c.Running = func(context.Context) ([]eventlog.Container, error) {
				return []eventlog.Container{{"default", "still-here"}, {"other", "there-too"}}, nil
			}
			l = open(t, b.c)
			s := l.State()
			if s.Name != k.state || s.Cause != k.cause || s.Epoch == before.Epoch {
				t.Fatalf("state %s (%s): %s; want %s (%s)", s.Name, s.Cause, s.Reason, k.state, k.cause)
			}
			text := stored(t, b.c.Dir)
			for _, want := range []string{"log-unproven", "still-here", "there-too", string(k.cause)} {
				if !bytes.Contains(text, []byte(want)) {
					t.Errorf("the new epoch does not say %q", want)
				}
			}
			if name != "everything deleted" && !bytes.Contains(text, []byte(`"previous":{"epoch":"`+before.Epoch.String())) {
				t.Errorf("the new epoch does not carry the old head")
			}
			r := verify(t, b.c.Dir, readPCR(t, b.c))
			if r.Match != eventlog.MatchEnd || r.Proven() || r.State != k.state || r.Cause != k.cause {
				t.Errorf("replay: %+v", r)
			}

			// Starts: a software TPM's reset does not block them, lost history does.
			_, err := l.Append(t.Context(), event("default", "e"))
			var refused *eventlog.StateError
			if blocked := errors.As(err, &refused); blocked != (k.state == eventlog.HistoryLost) || (err != nil && !blocked) {
				t.Errorf("a start in state %s: %v", k.state, err)
			}
			if err != nil && !strings.Contains(err.Error(), "hint:") {
				t.Errorf("no hint: %v", err)
			}
			if _, err := l.Append(t.Context(), eventlog.Event{Type: "note", Namespace: "default"}); err != nil {
				t.Errorf("an event that starts nothing: %v", err)
			}
			// The state outlives the agent, and so does an operator's word.
			closeLog(t, l)
			l = open(t, b.c)
			if s := l.State(); s.Name != k.state || s.Acknowledged {
				t.Errorf("after another restart: %+v", s)
			}
			if _, err := l.Acknowledge(t.Context(), string(k.state), "looked into it"); err != nil {
				t.Fatal(err)
			}
			closeLog(t, l)
			l = open(t, b.c)
			if s := l.State(); s.Name != k.state || !s.Acknowledged || !s.AllowsStarts() {
				t.Errorf("after the acknowledgement: %+v", s)
			}
			add(t, l, event("default", "f"))
			if r := verify(t, b.c.Dir, readPCR(t, b.c)); r.Match != eventlog.MatchEnd || r.Proven() || !r.Acknowledged {
				t.Errorf("replay: %+v", r)
			}
		})
	}
}

// A single well-formed batch behind the PCR's place is what a crash leaves; it
// may as well be forged. Either way it becomes a hash that claims nothing.
func TestUnextendedTailIsRecovered(t *testing.T) {
	for name, cut := range map[string]func(batch []byte) []byte{
		"whole batch": func(b []byte) []byte { return b },
		"torn line":   func(b []byte) []byte { return b[:len(b)/2] },
		"no batch line": func(b []byte) []byte {
			return b[:bytes.Index(b, []byte(`{"batch"`))]
		},
		"torn batch line": func(b []byte) []byte { return b[:len(b)-1] },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
			l := open(t, c)
			add(t, l, event("default", "a"))
			closeLog(t, l)
			// The batch a killed process would have left: made by a log whose
			// TPM forgets every extend.
			d := config(t, filepath.Join(t.TempDir(), "log"), c.Device.Path())
			copyTree(t, c.Dir, d.Dir)
			d.Device = forgetful{d.Device}
			l = open(t, d)
			if _, err := l.Append(t.Context(), event("default", "never")); err == nil {
				t.Fatal("an extend that did not happen was believed")
			}
			batch := cutOut(t, d.Dir)
			closeLog(t, l)

			tail := cut(batch)
			rewrite(t, segment(t, c.Dir), func(text []byte) []byte { return append(text, tail...) })
			l = open(t, c)
			add(t, l, event("default", "b"))
			s := l.State()
			if s.Name != eventlog.Recovered || s.Cause != eventlog.TailUnextended || !s.AllowsStarts() {
				t.Fatalf("state %+v", s)
			}
			kept, err := filepath.Glob(filepath.Join(c.Dir, "epochs", "*", "tail-*"))
			if err != nil || len(kept) != 1 {
				t.Fatalf("kept tails %v, %v", kept, err)
			}
			if b, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(b, tail) {
				t.Errorf("kept tail differs: %v", err)
			}
			text := stored(t, c.Dir)
			if bytes.Contains(text, []byte("never")) || !bytes.Contains(text, []byte(filepath.Base(kept[0]))) {
				t.Errorf("log after recovery")
			}
			closeLog(t, l)
			open(t, c)
			if n := bytes.Count(stored(t, c.Dir), []byte(`"type":"log-recovered"`)); n != 1 {
				t.Errorf("%d records of one tail", n)
			}
			if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd || r.State != eventlog.Recovered || !r.Proven() {
				t.Errorf("replay %+v", r)
			}
		})
	}
}

// forgetful answers extends without doing them.
type forgetful struct{ tpm.Device }

func (forgetful) Extend(context.Context, int, tpm.Values) error { return nil }

// cutOut gives the batch that was never extended, from where the log puts it
// once it has found out.
func cutOut(t *testing.T, dir string) []byte {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		kept, err := filepath.Glob(filepath.Join(dir, "epochs", "*", "tail-*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(kept) > 0 {
			b, err := os.ReadFile(kept[0])
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the batch that was not extended was never cut out")
	return nil
}

// A new boot over an empty PCR is trusted, and names the old head.
func TestNextBoot(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	l := open(t, c)
	add(t, l, event("default", "a"))
	old := l.State()
	closeLog(t, l)
	x.Restart()
	c.BootID = "99999999-2222-3333-4444-555555555555"
	l = open(t, c)
	if s := l.State(); s.Name != eventlog.Trusted || s.Epoch == old.Epoch {
		t.Fatalf("%+v", s)
	}
	if !bytes.Contains(stored(t, c.Dir), []byte(old.Epoch.String())) {
		t.Error("the old head is not carried")
	}
	epochs, err := eventlog.Epochs(c.Dir)
	if err != nil || len(epochs) != 2 || epochs[0].ID != old.Epoch {
		t.Errorf("epochs %+v, %v", epochs, err)
	}
	if _, err := eventlog.Lines(c.Dir, old.Epoch.String()[:8]); err != nil {
		t.Error(err)
	}
}

// A PCR that firmware or the boot loader extended is fine when the boot log
// that is quoted beside ours explains it.
func TestInitialValueFromBootLog(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	foreign(t, c)
	c.Initial = readPCR(t, c)
	l := open(t, c)
	add(t, l, event("default", "a"))
	if s := l.State(); s.Name != eventlog.Trusted {
		t.Fatalf("%+v", s)
	}
	if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd || r.Proven() || !r.Initial.Equal(c.Initial) {
		t.Errorf("replay %+v", r)
	}
}
