package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sealift/sealift/integration/skip"
)

func TestRegistryOutlivesTheAgent(t *testing.T) {
	dir := t.TempDir()
	r, err := openRegistry(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.put(&container{Namespace: "ns", ID: "a", State: "created", Seq: 7}); err != nil {
		t.Fatal(err)
	}
	if ok, err := r.update("ns", "a", func(c *container) { c.State, c.Cgroups = "running", []string{"/ns/a"} }); !ok || err != nil {
		t.Fatal(ok, err)
	}
	again, err := openRegistry(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := again.get("ns", "a"); !ok || c.State != "running" || c.Seq != 7 {
		t.Fatalf("%+v, %v", c, ok)
	}
	for path, want := range map[string]bool{"/ns/a": true, "/ns/a/sub": true, "/ns/ab": false, "/ns": false, "/": false} {
		if _, ok := again.OwnsCgroup(path); ok != want {
			t.Errorf("cgroup %s is a container's: %v", path, ok)
		}
	}
	if err := again.remove("ns", "a"); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "ns", "*")); err != nil || len(left) != 0 {
		t.Fatalf("left: %v, %v", left, err)
	}
}

// A cgroup that the shim or the agent is in as well is not a container's: were it
// taken for one, every shim beside it would be turned away.
func TestSharedCgroupIsNotAContainers(t *testing.T) {
	hosts := []string{"/system.slice/containerd.service", "/system.slice/sealiftd.service"}
	for cgroup, want := range map[string]bool{
		"/default/a":                         true,
		"/system.slice/containerd.service":   false,
		"/system.slice/sealiftd.service":     false,
		"/system.slice":                      false,
		"/system.slice/containerd.service/x": true,
		"/system.slice/containerd":           true,
	} {
		if got := len(exclusive([]string{cgroup}, hosts)) == 1; got != want {
			t.Errorf("%s is the container's own: %v", cgroup, got)
		}
	}
}

// A restored container's processes run before its pid is known; its spec says
// where.
func TestExpectedCgroups(t *testing.T) {
	for _, c := range []struct {
		path    string
		systemd bool
		want    []string
	}{
		{"/default/a", false, []string{"/default/a"}},
		{"system.slice:nerdctl:a", true, []string{"/system.slice/nerdctl-a.scope"}},
		{"kubepods-besteffort.slice:cri:a", true, []string{"/kubepods.slice/kubepods-besteffort.slice/cri-a.scope"}},
		{"relative", false, nil},
		{"", false, nil},
		{"/", false, nil},
	} {
		got, err := expectedCgroups(&specs.Spec{Linux: &specs.Linux{CgroupsPath: c.path}}, c.systemd)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v, want %q", c.path, got, err, c.want)
		}
	}
}

// A child is in its parent's cgroups until it is given one of its own: then that
// one alone is its own.
func TestOwnCgroupsOfAChild(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) == 0 {
		skip.On(t, fmt.Errorf("a cgroup2 mount: %w", errors.ErrUnsupported))
	}
	dir, err := os.MkdirTemp(mounts[0].Mountpoint, "sealift-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 6000 { // until the child is gone
			if err = os.Remove(dir); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Error(err)
	})
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
	})
	shared, err := cgroupsOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	own, err := ownCgroups(cmd.Process.Pid)
	if refused := err != nil; refused != (len(shared) > 0) || len(own) > 0 {
		t.Fatalf("own %v, %v; shared %v", own, err, shared)
	}

	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	own, err = ownCgroups(cmd.Process.Pid)
	if err != nil || len(own) != 1 || filepath.Base(own[0]) != filepath.Base(dir) {
		t.Errorf("own %v, %v, wanted %s", own, err, filepath.Base(dir))
	}
}
