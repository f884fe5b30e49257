package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

// The named points of a start, in the order it passes them (package fault).
var (
	agentPoints = []string{"launch.received", "launch.measured", "log.before-write", "log.after-write", "log.after-extend", "launch.before-reply"}
	shimPoints  = []string{"create.before-launch", "create.after-launch", "create.after-runc", "start.before", "start.after"}
)

// inFlight is how many containers are being started when something dies.
const inFlight = 4

// TestKilledAtEveryPoint kills agent, shim and containerd at each point with
// several starts in flight. Whatever dies: the log equals the PCR or one tail is
// recovered as such, nothing runs that the log does not know, and what ran
// before runs on.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Run("agent", func(t *testing.T) {
		t.Parallel()
		f := newFaults(t)
		for _, point := range agentPoints {
			t.Run(point, func(t *testing.T) { f.at(t).agentDies(point) })
		}
	})
	t.Run("shim", func(t *testing.T) {
		t.Parallel()
		f := newFaults(t)
		for _, point := range shimPoints {
			t.Run(point, func(t *testing.T) { f.at(t).shimDies(point) })
		}
	})
	t.Run("containerd", func(t *testing.T) {
		t.Parallel()
		f := newFaults(t)
		for _, point := range append(shimPoints, agentPoints...) {
			t.Run(point, func(t *testing.T) { f.at(t).containerdDies(point) })
		}
	})
}

// faults is a node of builds with fault points, and a container that must
// outlive everything.
type faults struct{ subject }

func newFaults(t *testing.T) faults {
	f := faults{subject{newNode(t, node.Options{Name: "faults", Binaries: made.Faults}), byName, t}}
	f.sh("mkdir -p /run/sealift-fault")
	f.create("steady", "--", "sleep", "7777")
	return f
}

func (f faults) at(t *testing.T) faults { f.t = t; return f }

func (f faults) arm(point, act string) {
	f.t.Helper()
	f.sh("rm -f /run/sealift-fault/*; echo %q > /run/sealift-fault/%s", act, point)
}

// start begins several containers at once. The function it returns waits until
// each has started or failed.
func (f faults) start() (wait func()) {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	var all sync.WaitGroup
	for i := range inFlight {
		all.Go(func() {
			line := append([]string{"driver", "create", "-id", fmt.Sprintf("flight-%d", i), "-image", image.TinyName}, f.driver...)
			f.Run(ctx, append(line, "--", "sleep", fmt.Sprintf("60%d", i))...) // whether it may start is what is judged below
		})
	}
	return func() { all.Wait(); cancel() }
}

func (f faults) agentDies(point string) {
	f.arm(point, "kill once")
	wait := f.start()
	select {
	case <-f.Agent.Done():
	case <-time.After(patience):
		f.t.Fatalf("the agent was not killed at %s", point)
	}
	wait()
	if err := f.StartAgent(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	f.judge()
}

func (f faults) shimDies(point string) {
	f.arm(point, "kill once")
	f.start()()
	f.sh("test -e /run/sealift-fault/%s.hit", point)
	f.judge()
}

func (f faults) containerdDies(point string) {
	f.arm(point, "block")
	wait := f.start()
	f.eventually("the point was reached", "test -e /run/sealift-fault/%s.hit", point)
	if err := f.Containerd.Kill(); err != nil {
		f.t.Fatal(err)
	}
	f.sh("rm /run/sealift-fault/%s", point)
	wait()
	if err := f.StartContainerd(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	f.judge()
}

// judge looks at what must hold whatever died, and clears up.
func (f faults) judge() {
	f.t.Helper()
	f.sh("ctr task exec --exec-id after-%d steady true", time.Now().UnixNano())
	f.sh("sealift log --verify")
	if state := f.sh("sealift status --json | jq -r .log.state"); state != "trusted" && state != "recovered" {
		f.t.Errorf("the log is %s", state)
	}
	for i := range inFlight {
		// The process itself is asked, not containerd: nothing may run unmeasured.
		running := f.sh("pgrep -fc '^sleep 60%d$' || true", i) != "0"
		known := f.sh("sealift log default/flight-%d | grep -c ' launch ' || true", i) != "0"
		if running && !known {
			f.t.Errorf("flight-%d runs and the log does not know it", i)
		}
	}
	f.sh(`for i in $(seq 0 %d); do
ctr task kill -s KILL flight-$i 2>/dev/null || true
ctr task delete --force flight-$i >/dev/null 2>&1 || true
ctr container delete flight-$i 2>/dev/null || true
done`, inFlight-1)
	f.eventually("every flight ended", "! pgrep -f '^sleep 60'; [ \"$(ctr container ls -q)\" = steady ]")
	f.eventually("nothing of them is left", "[ -z \"$(ls /run/sealift/bundles/default | grep -v steady)\" ]; ! grep flight /proc/mounts")
}

// TestBlockedBeforeReply holds the answer: no container of that batch may run an
// instruction before it comes.
func TestBlockedBeforeReply(t *testing.T) {
	for _, point := range []string{"log.after-write", "log.after-extend", "launch.before-reply"} {
		t.Run(point, func(t *testing.T) {
			f := newFaults(t)
			f.arm(point, "block")
			wait := f.start()
			f.eventually("the point was reached", "test -e /run/sealift-fault/%s.hit", point)
			time.Sleep(300 * time.Millisecond)
			if out := f.sh("pgrep -fa '^sleep 60' || true"); out != "" {
				t.Errorf("runs before its record was answered: %s", out)
			}
			if out := f.sh("ls /run/containerd/runc/default | grep -v steady || true"); strings.Contains(out, "flight") {
				t.Errorf("was created before its record was answered: %s", out)
			}
			f.sh("rm /run/sealift-fault/%s", point)
			wait()
			f.judge()
		})
	}
}
