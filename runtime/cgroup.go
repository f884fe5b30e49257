package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
)

// JoinCgroup moves the process pid into the existing cgroup path.
func JoinCgroup(path string, pid int) error {
	if cgroups.Mode() == cgroups.Unified {
		cg, err := cgroup2.Load(path)
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", path, err)
		}
		if err := cg.AddProc(uint64(pid)); err != nil {
			return fmt.Errorf("cgroup %s: %w", path, err)
		}
		return nil
	}
	cg, err := cgroup1.Load(cgroup1.StaticPath(path))
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", path, err)
	}
	if err := cg.AddProc(uint64(pid)); err != nil {
		return fmt.Errorf("cgroup %s: %w", path, err)
	}
	return nil
}

// ProcessCgroup loads the cgroup of the process pid: a cgroup1.Cgroup, or a
// *cgroup2.Manager where the host has version 2 only.
func ProcessCgroup(pid int) (any, error) {
	if cgroups.Mode() == cgroups.Unified {
		group, err := cgroup2.PidGroupPath(pid)
		if err != nil {
			return nil, fmt.Errorf("cgroup of process %d: %w", pid, err)
		}
		cg, err := cgroup2.Load(group)
		if err != nil {
			return nil, fmt.Errorf("cgroup %s: %w", group, err)
		}
		return cg, nil
	}
	cg, err := cgroup1.Load(cgroup1.PidPath(pid))
	if err != nil {
		return nil, fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	return cg, nil
}

// cgroupRoot is where the cgroup file systems are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// CgroupTaken says whether a container lives in cgroupsPath already. Two
// containers restored into one cgroup are frozen and killed together.
func CgroupTaken(cgroupsPath string) bool { return cgroupTaken(cgroupRoot, cgroupsPath) }

func cgroupTaken(root, cgroupsPath string) bool {
	if cgroupsPath == "" {
		return false
	}
	dir := CgroupDir(cgroupsPath, SystemdCgroupsPath(cgroupsPath))
	// Version 2 first, then the unified tree beside version 1, then a version 1
	// hierarchy that every container is in.
	for _, hierarchy := range []string{"", "unified", "pids", "memory", "systemd"} {
		if _, err := os.Stat(filepath.Join(root, hierarchy, dir)); err == nil {
			return true
		}
	}
	return false
}

// CgroupDir is the cgroup that cgroupsPath names, as /proc/PID/cgroup will show
// it.
func CgroupDir(cgroupsPath string, systemd bool) string {
	if parts := strings.Split(cgroupsPath, ":"); systemd && len(parts) == 3 {
		return filepath.Join(slicePath(parts[0]), parts[1]+"-"+parts[2]+".scope")
	}
	return filepath.Clean(cgroupsPath)
}

// slicePath is the directory of a systemd slice: "a-b.slice" lies within
// "a.slice". The empty slice is system.slice, as runc has it.
func slicePath(slice string) string {
	if slice == "" {
		slice = "system.slice"
	}
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" {
		return "/"
	}
	out, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		prefix += part
		out = filepath.Join(out, prefix+".slice")
		prefix += "-"
	}
	return out
}
