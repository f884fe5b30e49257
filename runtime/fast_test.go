package runtime

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sleeper stands for a container's init; script runs with the fifo as $1.
func sleeper(t *testing.T, script, fifo string) *exec.Cmd {
	t.Helper()
	c := exec.Command("/bin/sh", "-c", script, "sh", fifo)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		c.Wait()
	})
	return c
}

func fifoIn(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, execFifo)
	if err := unix.Mkfifo(path, 0o622); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

func TestStartByFifo(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   error
	}{
		"init waits":            {"printf 0 >$1; sleep 60", nil},
		"init comes late":       {"sleep 0.2; printf 0 >$1; sleep 60", nil},
		"init has ended since":  {"printf 0 >$1", nil},
		"init dies at the fifo": {"sleep 0.2", errInitDied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, path := fifoIn(t)
			done, err := startByFifo(dir, sleeper(t, c.script, path).Process.Pid)
			if !done || !errors.Is(err, c.want) {
				t.Errorf("%v, %v, want %v", done, err, c.want)
			}
			if _, err := os.Lstat(path); c.want == nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the fifo stays: %v", err)
			}
		})
	}
}

// Whatever is not as expected is left to runc, and nothing has been touched.
func TestStartByFifoLeavesToRunc(t *testing.T) {
	t.Parallel()
	dir, path := fifoIn(t)
	pid := sleeper(t, "sleep 60", path).Process.Pid
	plain := t.TempDir()
	if err := os.WriteFile(filepath.Join(plain, execFifo), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := t.TempDir()
	if err := os.Symlink(path, filepath.Join(link, execFifo)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir string
		pid int
	}{"no pid": {dir, 0}, "no process": {dir, 1 << 30}, "no fifo": {t.TempDir(), pid}, "a file": {plain, pid}, "a link": {link, pid}} {
		if done, err := startByFifo(c.dir, c.pid); done || err != nil {
			t.Errorf("%s: %v, %v", name, done, err)
		}
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestFastPathsAreForPlainContainers(t *testing.T) {
	own := []specs.LinuxNamespace{{Type: specs.PIDNamespace}}
	plain := specs.Spec{Linux: &specs.Linux{Namespaces: own}}
	hooked := func(h specs.Hooks) specs.Spec { return specs.Spec{Hooks: &h, Linux: plain.Linux} }
	shared := specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"}}}}
	for name, c := range map[string]struct {
		binary        string
		systemd       bool
		spec          specs.Spec
		start, remove bool
	}{
		"plain":              {"", false, plain, true, true},
		"by path":            {"/usr/sbin/runc", false, plain, true, true},
		"another runtime":    {"crun", false, plain, false, false},
		"systemd":            {"runc", true, plain, true, false},
		"poststart hook":     {"", false, hooked(specs.Hooks{Poststart: []specs.Hook{{Path: "/x"}}}), false, true},
		"poststop hook":      {"", false, hooked(specs.Hooks{Poststop: []specs.Hook{{Path: "/x"}}}), true, false},
		"createRuntime hook": {"", false, hooked(specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x"}}}), true, true},
		"shared pid":         {"", false, shared, true, false},
		"the host's pid":     {"", false, specs.Spec{Linux: &specs.Linux{}}, true, false},
		"resource directory": {"", false, specs.Spec{Linux: &specs.Linux{Namespaces: own, IntelRdt: &specs.LinuxIntelRdt{}}}, true, false},
	} {
		if got := CanStartByFifo(c.binary, &c.spec); got != c.start {
			t.Errorf("%s: start by fifo %v", name, got)
		}
		if got := CanDeleteByHand(c.binary, c.systemd, &c.spec); got != c.remove {
			t.Errorf("%s: delete by hand %v", name, got)
		}
	}
}

func TestMonitorAnswersStartWithoutProcess(t *testing.T) {
	m, rec := through(t)
	dir, path := fifoIn(t)
	m.Admit(&Measured{Bundle: "/b", State: dir, FastStart: true, pid: sleeper(t, "printf 0 >$1; sleep 60", path).Process.Pid})
	r := &runc.Runc{Root: filepath.Dir(dir), PdeathSignal: 9}
	if err := r.Start(t.Context(), filepath.Base(dir)); err != nil {
		t.Fatal(err)
	}
	if len(rec.commands) != 0 {
		t.Errorf("runc ran: %v", rec.commands)
	}
	// A second start is runc's to refuse.
	if err := r.Start(t.Context(), filepath.Base(dir)); err != nil || len(rec.commands) != 1 {
		t.Errorf("%v, %v", err, rec.commands)
	}
	if len(m.own) != 0 {
		t.Errorf("%d commands are still noted", len(m.own))
	}
}

func state(t *testing.T, st runcState) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "c1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDeleteByHandLeavesToRunc(t *testing.T) {
	const dead = 1 << 29
	paths := map[string]string{"pids": cgroupRoot + "/sealift-no-such-hierarchy/c1"}
	for name, c := range map[string]struct {
		st  runcState
		pid int
	}{
		"another container": {runcState{ID: "c2", InitPid: dead, CgroupPaths: paths}, dead},
		"another init":      {runcState{ID: "c1", InitPid: dead - 1, CgroupPaths: paths}, dead},
		"no pid":            {runcState{ID: "c1", CgroupPaths: paths}, 0},
		"a living init":     {runcState{ID: "c1", InitPid: os.Getpid(), CgroupPaths: paths}, os.Getpid()},
		"no cgroups":        {runcState{ID: "c1", InitPid: dead}, dead},
		"a path elsewhere":  {runcState{ID: "c1", InitPid: dead, CgroupPaths: map[string]string{"pids": cgroupRoot + "/../../../tmp"}}, dead},
		"a resource group":  {runcState{ID: "c1", InitPid: dead, CgroupPaths: paths, RdtPath: "/sys/fs/resctrl/c1"}, dead},
	} {
		dir := state(t, c.st)
		if deleteByHand(dir, c.pid) {
			t.Errorf("%s: deleted", name)
		}
		if _, err := os.Stat(filepath.Join(dir, "state.json")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := state(t, runcState{ID: "c1", InitPid: dead, CgroupPaths: paths})
	if !deleteByHand(dir, dead) {
		t.Error("a plain stopped container was left to runc")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its state stays: %v", err)
	}
}

func TestRemoveCgroup(t *testing.T) {
	// Outside a cgroup file system a directory with a file cannot be removed by
	// rmdir, as a cgroup with a process cannot.
	dir := filepath.Join(t.TempDir(), "c1")
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(dir, "a", "busy")
	if err := os.WriteFile(busy, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// That it gives up is what is tested: the file would stay for ever.
	if err := removeCgroup(dir); err == nil {
		t.Error("a busy cgroup was removed")
	}
	if err := os.Remove(busy); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := removeCgroup(dir); err != nil {
			t.Error(err)
		}
	}
}
