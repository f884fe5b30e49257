//go:build faults

package eventlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/internal/fault"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

const insideEnv = "SEALIFT_TEST_INSIDE"

// inside runs the test again in a mount namespace of its own, where /run is
// empty: the directory of armed points is shared by everybody on the machine.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(fault.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		skip.On(t, err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

func arm(t *testing.T, point, action string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(fault.Dir, point), []byte(action), 0o600); err != nil {
		t.Fatal(err)
	}
}

// An error at each named point: nobody is answered with success, and the log
// ends where the PCR is.
func TestFailingPoints(t *testing.T) {
	if !inside(t) {
		return
	}
	for point, want := range map[string]struct {
		state eventlog.Name
		text  string
	}{
		"log.before-write": {eventlog.Trusted, "log-unavailable"},
		"log.after-write":  {eventlog.Recovered, "log-recovered"},
		"log.after-extend": {eventlog.Trusted, "log-unanswered"},
	} {
		t.Run(point, func(t *testing.T) {
			c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
			l := open(t, c)
			add(t, l, event("default", "a"))
			arm(t, point, "fail on purpose once")
			var away *eventlog.UnavailableError
			if _, err := l.Append(t.Context(), event("default", "b")); !errors.As(err, &away) {
				t.Fatalf("append: %v", err)
			}
			await(t, l, want.state, func() bool { return bytes.Contains(stored(t, c.Dir), []byte(want.text)) })
			add(t, l, event("default", "c"))
			if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd || !r.Proven() {
				t.Errorf("replay %+v", r)
			}
		})
	}
}

// SIGKILL at each named point, in the first batch of all and in later ones.
func TestKilledAtPoints(t *testing.T) {
	if !inside(t) {
		return
	}
	for _, point := range []string{"log.before-write", "log.after-write", "log.after-extend"} {
		for _, later := range []bool{false, true} {
			t.Run(fmt.Sprint(point, later), func(t *testing.T) {
				x := swtpmtest.Start(t)
				dir := t.TempDir()
				c := config(t, dir, x.Device())
				if later {
					l := open(t, c)
					add(t, l, event("default", "a"))
					closeLog(t, l)
				}
				arm(t, point, "kill once")
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|never|0", childEnv, dir, x.Device()))
				var exit *exec.ExitError
				if err := cmd.Run(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("the writer was not killed: %v", err)
				}
				l := open(t, c)
				want := eventlog.Trusted
				if point == "log.after-write" {
					want = eventlog.Recovered
				}
				if s := l.State(); s.Name != want {
					t.Errorf("state %s (%s): %s", s.Name, s.Cause, s.Reason)
				}
				add(t, l, event("default", "z"))
				if r := verify(t, dir, readPCR(t, c)); r.Match != eventlog.MatchEnd || !r.Proven() || r.Unended != 0 {
					t.Errorf("replay %+v", r)
				}
			})
		}
	}
}
