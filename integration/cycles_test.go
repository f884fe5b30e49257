package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
)

// longEnv is "long" under make test-long.
const longEnv = "SEALIFT_TEST"

// TestCycles starts and stops containers, in a pod (so that one shim serves all
// of them) and alone, and wants everything as it was: descriptors, threads,
// mounts, cgroups, sockets, files, memory of agent and shim.
func TestCycles(t *testing.T) {
	cycles := 100
	if os.Getenv(longEnv) == "long" {
		cycles = 1000
	}
	n := newNode(t, node.Options{Name: "cycles"})
	s := subject{n, byName, t}
	const pod = "io.kubernetes.cri.sandbox-id=the-pod"
	s.create("the-pod", "-annotation", pod, "--", "sleep", "6000")
	cycle := func(count int, args ...string) {
		t.Helper()
		line := append([]string{"driver", "cycle", "-image", image.TinyName, "-runtime", node.Sealift, "-n", strconv.Itoa(count)}, args...)
		if _, err := n.Run(t.Context(), line...); err != nil {
			t.Fatal(err)
		}
	}
	// What is made once and kept (caches, pools) is made now.
	cycle(10, "-annotation", pod)
	cycle(5)
	before := census(s)
	cycle(cycles*3/4, "-annotation", pod)
	cycle(cycles / 4)
	s.eventually("the last shim is gone", "[ $(pgrep -fc '^/[^ ]*containerd-shim') = 1 ]")
	// What the last of them leaves to be done is done a moment later; a leak stays.
	var after map[string]float64
	var more []string
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		after = census(s)
		if more = grown(before, after); len(more) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, what := range more {
		t.Errorf("%s after %d cycles", what, cycles)
	}
	t.Logf("before %v, after %v", before, after)
	s.remove("the-pod")
	nothingLeft(s)
	logHolds(s, "trusted")
}

// grown says what there is more of than there was.
func grown(before, after map[string]float64) (more []string) {
	for what, was := range before {
		now := after[what]
		slack := 0.0
		switch {
		case strings.HasSuffix(what, "KiB"):
			// Garbage collection is not exact; a leak of a KiB a cycle is seen in
			// the long run.
			slack = max(4096, was*0.25)
		case strings.HasSuffix(what, "descriptors"), strings.HasSuffix(what, "threads"):
			slack = 4
		case what == "processes":
			slack = 2 // something is always just ending
		}
		if now > was+slack {
			more = append(more, fmt.Sprintf("%s: %g before, %g", what, was, now))
		}
	}
	return more
}

// census counts what a leak would make more of.
func census(s subject) map[string]float64 {
	s.t.Helper()
	counts := map[string]float64{}
	count := func(what, script string) {
		out := s.sh("%s", script)
		v, err := strconv.ParseFloat(out, 64)
		if err != nil {
			s.t.Fatalf("%s: %q", what, out)
		}
		counts[what] = v
	}
	for name, pattern := range map[string]string{"agent": "^/usr/local/bin/sealiftd", "shim": "^/[^ ]*containerd-shim.*-id the-pod"} {
		pid := s.sh("pgrep -f '%s'", pattern)
		count(name+" descriptors", fmt.Sprintf("ls /proc/%s/fd | wc -l", pid))
		count(name+" threads", fmt.Sprintf("ls /proc/%s/task | wc -l", pid))
		count(name+" memory in KiB", fmt.Sprintf("awk '/^VmRSS/ {print $2}' /proc/%s/status", pid))
	}
	count("mounts", "wc -l < /proc/mounts")
	count("cgroups", "find /sys/fs/cgroup -type d | wc -l")
	count("sockets", "wc -l < /proc/net/unix")
	count("processes", "ls -d /proc/[0-9]* | wc -l")
	count("files in /run", "find /run -not -path '/run/containerd/fifo*' | wc -l")
	return counts
}
