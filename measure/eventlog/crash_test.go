package eventlog_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// dying is a device whose process is killed at one command of the commit path:
// where the fault points log.before-write, log.after-write, log.after-extend
// are, and within the extend.
type dying struct {
	tpm.Device
	at    string
	after int
	mu    sync.Mutex
	n     int
}

func (d *dying) die(at string) {
	if at != d.at {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n++; d.n > d.after {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			panic(err)
		}
		select {}
	}
}

func (d *dying) ReadPCR(ctx context.Context, n int) (tpm.Values, error) {
	d.die("before-read")
	return d.Device.ReadPCR(ctx, n)
}

func (d *dying) Extend(ctx context.Context, n int, v tpm.Values) error {
	d.die("before-extend")
	if d.at == "within-extend" {
		// The command is on its way when the process dies.
		go func() {
			time.Sleep(time.Duration(d.n) * 40 * time.Microsecond)
			d.die("within-extend")
		}()
	}
	err := d.Device.Extend(ctx, n, v)
	d.die("after-extend")
	return err
}

const childEnv = "SEALIFT_TEST_WRITER"

// TestMain becomes the writer that is killed when the environment says so.
func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		if err := writer(strings.Split(spec, "|")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writer appends from eight goroutines and prints each committed container.
func writer(spec []string) error {
	dir, device, at := spec[0], spec[1], spec[2]
	after, err := strconv.Atoi(spec[3])
	if err != nil {
		return err
	}
	d, err := tpm.Open(context.Background(), device)
	if err != nil {
		return err
	}
	l, err := eventlog.Open(context.Background(), eventlog.Config{
		Dir: dir, Device: &dying{Device: d, at: at, after: after}, PCR: pcr, BootID: boot, Instance: "host-a",
	})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	failed := make(chan error, 8)
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				id := fmt.Sprintf("c%d-%d", g, i)
				if _, err := l.Append(context.Background(), event("default", id)); err != nil {
					failed <- err
					return
				}
				fmt.Println(id)
			}
		})
	}
	wg.Wait()
	close(failed)
	return errors.Join(<-failed, l.Close())
}

// kill -9 at each point, with eight in flight: what was answered is in the log
// and in the PCR, and the log equals the PCR or one tail is recovered.
func TestKilledWriter(t *testing.T) {
	for _, at := range []string{"before-read", "before-extend", "within-extend", "after-extend"} {
		for _, after := range []int{0, 1, 2, 5, 17} {
			t.Run(fmt.Sprint(at, after), func(t *testing.T) {
				x := swtpmtest.Start(t)
				dir := t.TempDir()
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%d", childEnv, dir, x.Device(), at, after))
				cmd.Stderr = os.Stderr
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				var answered []string
				for s := bufio.NewScanner(out); s.Scan(); {
					answered = append(answered, s.Text())
				}
				var exit *exec.ExitError
				if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("the writer was not killed: %v", err)
				}
				c := config(t, dir, x.Device())
				l := open(t, c)
				s := l.State()
				if s.Name != eventlog.Trusted && s.Name != eventlog.Recovered {
					t.Fatalf("state %s (%s): %s", s.Name, s.Cause, s.Reason)
				}
				add(t, l, event("default", "after"))
				text := string(stored(t, dir))
				for _, id := range answered {
					if !strings.Contains(text, `"container":"`+id+`"`) {
						t.Errorf("%s was answered and is not in the log", id)
					}
				}
				r := verify(t, dir, readPCR(t, c))
				if r.Match != eventlog.MatchEnd || !r.Proven() || r.Unended != 0 {
					t.Errorf("replay %+v", r)
				}
				t.Logf("%d answered, %d records, state %s", len(answered), r.Records, r.State)
			})
		}
	}
}

// promised is how soon a start is refused that a TPM with its default timeout
// does not answer (docs/operations.md), and what a busy machine may add. Where
// events waited one after the other, it would be a timeout for each.
const promised = 2*time.Second + 3*time.Second

// refusedAtOnce wants f refused without waiting for anything. The machine may be
// busy otherwise for a moment: of five the fastest counts.
func refusedAtOnce(t *testing.T, f func() error) {
	t.Helper()
	fastest := promised
	for i := 0; i < 5 && fastest > 500*time.Millisecond; i++ {
		start := time.Now()
		if err := f(); err == nil {
			t.Error("not refused")
		}
		fastest = min(fastest, time.Since(start))
	}
	if fastest > 500*time.Millisecond {
		t.Errorf("refused after %v", fastest)
	}
}

// A reply that never comes: the events of that batch are refused within two
// seconds, nothing of it counts as committed, and the log finds out by itself
// what became of it.
func TestRepliesHeldForEver(t *testing.T) {
	for name, k := range map[string]struct {
		reached bool // the held command had reached the TPM
		want    string
	}{
		"extend done, reply held": {true, `"type":"log-unanswered"`},
		"command held":            {false, `"type":"log-recovered"`},
	} {
		t.Run(name, func(t *testing.T) {
			x := swtpmtest.Start(t)
			p := swtpmtest.NewProxy(t, x)
			c := configWithin(t, t.TempDir(), p.Device(), tpm.Timeout)
			l := open(t, c)
			add(t, l, event("default", "a"))
			release := make(chan struct{})
			defer close(release)
			hold := func(code uint32) { <-release }
			if k.reached {
				// From the extend's reply on nothing comes back any more.
				var once sync.Once
				p.Set(nil, func(code uint32) {
					if code == swtpmtest.PCRExtend {
						once.Do(func() { p.Set(hold, hold) })
						hold(code)
					}
				})
			} else {
				var once sync.Once
				p.Set(func(code uint32) {
					if code == swtpmtest.PCRExtend {
						once.Do(func() { p.Set(hold, hold) })
						hold(code)
					}
				}, nil)
			}
			start := time.Now()
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					var away *eventlog.UnavailableError
					var late *tpm.TimeoutError
					_, err := l.Append(t.Context(), event("default", fmt.Sprint("held", i)))
					if !errors.As(err, &away) || !errors.As(err, &late) || !strings.Contains(err.Error(), "hint:") {
						t.Errorf("append with a held reply: %v", err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(start); took > promised {
				t.Errorf("refused after %v", took)
			}
			if s := l.State(); s.Name != eventlog.Unavailable || s.Seq != 2 {
				t.Errorf("state %+v", s)
			}
			// While it lasts everybody else is refused at once.
			refusedAtOnce(t, func() error {
				_, err := l.Append(t.Context(), event("default", "later"))
				return err
			})
			p.Set(nil, nil)
			want := eventlog.Trusted
			if !k.reached {
				want = eventlog.Recovered
			}
			await(t, l, want, func() bool { return strings.Contains(string(stored(t, c.Dir)), k.want) })
			add(t, l, event("default", "b"))
			text := string(stored(t, c.Dir))
			if in := strings.Contains(text, `"container":"held`); in != k.reached {
				t.Errorf("held batch in the log: %v, in the TPM: %v", in, k.reached)
			}
			if !strings.Contains(text, `"type":"log-unavailable"`) {
				t.Errorf("the outage is not told")
			}
			if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd || r.State != want {
				t.Errorf("replay %+v", r)
			}
		})
	}
}

// Everybody in the queue behind a dead batch is refused with it, not one
// timeout after the other.
func TestDeadTPMRefusesAllWithinTwoSeconds(t *testing.T) {
	x := swtpmtest.Start(t)
	p := swtpmtest.NewProxy(t, x)
	c := configWithin(t, t.TempDir(), p.Device(), tpm.Timeout)
	l := open(t, c)
	release := make(chan struct{})
	defer close(release)
	p.Set(func(uint32) { <-release }, nil)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			start := time.Now()
			_, err := l.Append(t.Context(), event("default", fmt.Sprint(i)))
			if took := time.Since(start); err == nil || took > promised {
				t.Errorf("append %d: %v after %v", i, err, took)
			}
		})
	}
	wg.Wait()
}
