package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
)

// TestDemo runs what `make demo` runs, twice over and on both lines: it must
// hold, and leave nothing of itself on the machine.
func TestDemo(t *testing.T) {
	_, err := made.Rootfs(t.Context())
	skip.On(t, err)
	before := machine(t)
	demo := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", demo, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, line := range []node.Line{node.Line24, node.Line24, node.Line17} {
		if out, err := exec.CommandContext(t.Context(), demo, "-containerd", string(line)).CombinedOutput(); err != nil {
			t.Fatalf("containerd %s: %v\n%s", line, err, out)
		}
	}
	for what := range machine(t) {
		if !before[what] {
			t.Errorf("left behind: %s", what)
		}
	}
}

// machine finds what a demo could leave: mounts, cgroups, scratch directories,
// sockets and processes that bear its host's name, or are where only an
// installation is. Other tests run nodes, and the same image, at the same time.
func machine(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(append(mounts, sockets...)) {
		if bytes.Contains(line, []byte("demo-")) || bytes.Contains(line, []byte("/run/sealift")) {
			found[string(line)] = true
		}
	}
	scratch, err := made.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"/sys/fs/cgroup", scratch} {
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(d.Name(), "demo-") {
				found[path] = true
				return filepath.SkipDir
			}
			return nil // what comes and goes while we walk is not ours
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		b, err := os.ReadFile(p)
		if err == nil && bytes.Contains(b, []byte("/sealift-demo-")) {
			found[p+" "+string(b)] = true
		}
	}
	return found
}
