package host_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/skip"
)

// crashEnv makes this test binary a maker that says its host's name and scratch
// directory and waits to be killed.
const crashEnv = "SEALIFT_TEST_CRASH"

func TestMain(m *testing.M) {
	host.Reexec()
	if scratch := os.Getenv(crashEnv); scratch != "" {
		crash(scratch)
	}
	os.Exit(m.Run())
}

func newHost(t *testing.T, name string) *host.Host {
	t.Helper()
	rootfs, err := made.Rootfs(t.Context())
	skip.On(t, err)
	h, err := host.New(t.Context(), host.Options{Name: name, Rootfs: rootfs, Scratch: scratch(t)})
	skip.On(t, err)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func scratch(t *testing.T) string {
	t.Helper()
	dir, err := made.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCommands(t *testing.T) {
	h := newHost(t, "commands")
	ctx := t.Context()
	out, err := h.Shell(ctx, "echo $$; hostname; cat /etc/machine-id; echo to-stderr >&2")
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(out)
	if len(f) != 3 || f[1] != h.Name || len(f[2]) != 32 {
		t.Errorf("got %q", out)
	}
	var exit *host.ExitError
	if _, err := h.Shell(ctx, "echo why >&2; exit 7"); !errors.As(err, &exit) || exit.Status != 7 || exit.Stderr != "why\n" {
		t.Errorf("exit 7: got %v", err)
	}
	if _, err := h.Shell(ctx, "kill -9 $$"); !errors.As(err, &exit) || exit.Status != 137 {
		t.Errorf("killed: got %v", err)
	}
	if _, err := h.Run(ctx, "no-such-command"); err == nil {
		t.Error("a command that does not exist ran")
	}
	want := strings.Repeat("0123456789", 100_000)
	if err := h.WriteFile(ctx, "/srv/deep/file", []byte(want), 0o640); err != nil {
		t.Fatal(err)
	}
	if got, err := h.ReadFile(ctx, "/srv/deep/file"); err != nil || string(got) != want {
		t.Errorf("read back %d bytes, %v", len(got), err)
	}
	if out, err := h.Run(ctx, "stat", "-c", "%a", "/srv/deep/file"); err != nil || out != "640\n" {
		t.Errorf("mode %q, %v", out, err)
	}
}

func TestCommandOutlivedByItsContext(t *testing.T) {
	h := newHost(t, "timeout")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	// That it returns at all is what is tested.
	if _, err := h.Run(ctx, "sleep", "infinity"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// slow takes its time at the beginning, as a machine does that is busy otherwise.
type slow struct {
	got  int
	once sync.Once
}

func (s *slow) Write(b []byte) (int, error) {
	s.once.Do(func() { time.Sleep(2500 * time.Millisecond) })
	s.got += len(b)
	return len(b), nil
}

// Output that nobody has read when the command ends is read all the same, also
// while something that the command left behind holds the pipe.
func TestOutputOfASlowReader(t *testing.T) {
	h := newHost(t, "slow")
	const size = 60000 // less than a pipe holds, more than is read at once
	for name, script := range map[string]string{
		"ended":       "head -c 60000 /dev/zero",
		"left behind": "sleep 3600 & head -c 60000 /dev/zero",
	} {
		out := &slow{}
		if _, err := h.RunCmd(t.Context(), host.Cmd{Args: []string{"/bin/sh", "-c", script}, Stdout: out}); err != nil || out.got != size {
			t.Errorf("%s: %d bytes of %d, %v", name, out.got, size, err)
		}
	}
}

// A host must look like a machine to containerd, runc and CRIU.
func TestLooksLikeAMachine(t *testing.T) {
	h := newHost(t, "machine")
	for name, script := range map[string]string{
		"loopback":         "ip -o link show lo | grep -q ',UP'",
		"own cgroup":       "! grep -q sealift /proc/self/cgroup",
		"cgroups writable": "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do [ -e $d/cgroup.procs ] || continue; mkdir $d/probe; rmdir $d/probe; done",
		"overlay":          "cd /srv; mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m; umount m",
		"terminal":         "script -qec 'tty' /dev/null | grep -q /dev/pts/",
		"no TPM":           "! ls /dev/tpm* 2>/dev/null",
		"init is 1":        "[ $(ps -o ppid= $$) = 1 ]",
		"orphans reaped":   "(sleep 0.1 & echo $! >/tmp/orphan); for i in $(seq 600); do [ -e /proc/$(cat /tmp/orphan) ] || exit 0; sleep 0.1; done; exit 1",
		"criu":             "criu check 2>&1 | grep -q 'Looks good'",
	} {
		if out, err := h.Shell(t.Context(), script); err != nil {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}

func TestTwoHostsAndACable(t *testing.T) {
	a, b := newHost(t, "left"), newHost(t, "right")
	ctx := t.Context()
	if err := host.Link(ctx, "cable", a, "10.99.0.1/24", b, "10.99.0.2/24"); err != nil {
		t.Fatal(err)
	}
	d, err := b.Daemon("nc", host.Cmd{Args: []string{"nc", "-l", "10.99.0.2", "7000"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Shell(ctx, "for i in $(seq 600); do echo hello | nc -N 10.99.0.2 7000 && exit 0; sleep 0.1; done; exit 1"); err != nil {
		t.Fatal(err)
	}
	<-d.Done()
	if got, err := os.ReadFile(d.Log); err != nil || string(got) != "hello\n" {
		t.Errorf("got %q, %v", got, err)
	}
	idA, _ := a.ReadFile(ctx, "/etc/machine-id")
	idB, _ := b.ReadFile(ctx, "/etc/machine-id")
	if string(idA) == string(idB) {
		t.Error("two hosts are the same instance")
	}
}

// mess leaves a daemon that ignores SIGTERM in a session of its own, a mount, a
// cgroup with a process in it, and a network namespace.
const mess = `
mkdir -p /srv/m; mount -t tmpfs none /srv/m
for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do [ -e $d/cgroup.procs ] && mkdir -p $d/left/behind; done
setsid sh -c 'trap "" TERM HUP; for d in /sys/fs/cgroup/pids /sys/fs/cgroup; do [ -e $d/left ] && echo $$ > $d/left/behind/cgroup.procs; done; exec sleep 3600' >/dev/null 2>&1 &
ip netns add left
`

func TestCloseLeavesNothing(t *testing.T) {
	h := newHost(t, "clean")
	if _, err := h.Shell(t.Context(), mess); err != nil {
		t.Fatal(err)
	}
	before, err := traces(h.Name, h.PID)
	if err != nil {
		t.Fatal(err)
	}
	if len(before) < 4 {
		t.Fatalf("the host's traces were not found, so their absence would prove nothing: %q", before)
	}
	ns := heldNamespaces(t, h.PID)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	left(t, h.Name, ns)
}

func TestKilledMakerLeavesNothing(t *testing.T) {
	rootfs, err := made.Rootfs(t.Context())
	skip.On(t, err)
	maker := exec.Command("/proc/self/exe")
	maker.Env = append(os.Environ(), crashEnv+"="+scratch(t), "SEALIFT_TEST_ROOTFS="+rootfs)
	maker.Stderr = os.Stderr
	out, err := maker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.Start(); err != nil {
		t.Fatal(err)
	}
	var name string
	var pid int
	if _, err := fmt.Fscan(out, &name, &pid); err != nil {
		t.Fatal(err)
	}
	ns := heldNamespaces(t, pid)
	if err := maker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	maker.Wait()
	left(t, name, ns)
}

func crash(scratch string) {
	h, err := host.New(context.Background(), host.Options{Name: "crash", Rootfs: os.Getenv("SEALIFT_TEST_ROOTFS"), Scratch: scratch})
	if err == nil {
		_, err = h.Shell(context.Background(), mess)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(h.Name, h.PID)
	select {}
}

// left fails the test when anything of a closed host is to be found.
func left(t *testing.T, name string, ns map[string]bool) {
	t.Helper()
	var found []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var err error
		if found, err = traces(name, 0); err != nil {
			t.Fatal(err)
		}
		for _, p := range processes() {
			for n := range namespaces(p) {
				if ns[n] {
					found = append(found, fmt.Sprintf("process %d in %s", p, n))
				}
			}
		}
		if len(found) == 0 {
			return
		}
	}
	t.Errorf("left behind:\n%s", strings.Join(found, "\n"))
}

// traces finds what the machine has of a host: mounts (of any process),
// cgroups, files, and processes that carry its name.
func traces(name string, pid int) ([]string, error) {
	var found []string
	files := []string{"/proc/self/mountinfo"}
	if pid != 0 {
		files = append(files, fmt.Sprintf("/proc/%d/mountinfo", pid))
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, name) {
				found = append(found, "mount "+line)
			}
		}
	}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), name) {
			found = append(found, path)
		}
		return nil // groups come and go while we walk
	})
	if err != nil {
		return nil, err
	}
	dir, err := made.Scratch()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
		found = append(found, filepath.Join(dir, name))
	}
	for _, p := range processes() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p))
		if err == nil && p != os.Getpid() && strings.Contains(string(env), name) {
			found = append(found, fmt.Sprintf("process %d", p))
		}
	}
	return found, nil
}

func processes() []int {
	var pids []int
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(p), "%d", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// namespaces names the namespaces of a process, but for those it shares with us.
func namespaces(pid int) map[string]bool {
	ns := map[string]bool{}
	for _, kind := range namespaceKinds {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		own, _ := os.Readlink("/proc/self/ns/" + kind)
		if err == nil && name != own {
			ns[name] = true
		}
	}
	return ns
}

var namespaceKinds = []string{"mnt", "net", "pid", "cgroup", "uts", "ipc"}

// heldNamespaces names the namespaces of a process as namespaces does, and
// holds them until the test ends: the kernel gives the number of a namespace
// that is gone to the next one made, which may be another test's.
func heldNamespaces(t *testing.T, pid int) map[string]bool {
	t.Helper()
	for _, kind := range namespaceKinds {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
	}
	ns := namespaces(pid)
	if len(ns) < 3 {
		t.Fatalf("of the host's namespaces only %v differ from ours, so their absence would prove nothing", ns)
	}
	return ns
}
