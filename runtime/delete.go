package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CanDeleteByHand says whether "runc delete" of this container, once its init
// has ended, comes down to removing its cgroups and its state: runc itself, no
// hooks after the stop, a pid namespace of its own (nobody is left in it) and
// neither systemd nor a resource group that would have to be told.
func CanDeleteByHand(binary string, systemd bool, spec *specs.Spec) bool {
	if !isRunc(binary) || systemd || spec.Linux == nil || spec.Linux.IntelRdt != nil {
		return false
	}
	if spec.Hooks != nil && len(spec.Hooks.Poststop) > 0 {
		return false
	}
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace && n.Path == ""
	})
}

// runcState is what deleting needs of runc's state.json.
type runcState struct {
	ID          string            `json:"id"`
	InitPid     int               `json:"init_process_pid"`
	InitStart   uint64            `json:"init_process_start"`
	CgroupPaths map[string]string `json:"cgroup_paths"`
	RdtPath     string            `json:"intel_rdt_path"`
}

const (
	// busyLimit bounds how long a cgroup may stay busy after its last process.
	busyLimit = 100 * time.Millisecond
	// maxState bounds state.json.
	maxState = 16 << 20
)

// deleteByHand removes a stopped container's cgroups and state. When it returns
// false "runc delete" is to be run; whatever was removed by then is what that
// would have removed first.
func deleteByHand(stateDir string, pid int) bool {
	st, err := readState(stateDir)
	if err != nil || st.ID != filepath.Base(stateDir) || st.InitPid != pid || pid <= 0 || st.RdtPath != "" || len(st.CgroupPaths) == 0 {
		return false
	}
	// A pid of this number that lives may be init or a stranger: runc knows how
	// to tell.
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		return false
	}
	for _, dir := range st.CgroupPaths {
		if !strings.HasPrefix(filepath.Clean(dir), cgroupRoot+"/") {
			return false
		}
	}
	for _, dir := range st.CgroupPaths {
		if err := removeCgroup(filepath.Clean(dir)); err != nil {
			return false
		}
	}
	return os.RemoveAll(stateDir) == nil
}

// InitPid is the pid of init in runc's state directory of a container.
func InitPid(stateDir string) (int, error) {
	st, err := readState(stateDir)
	if err != nil {
		return 0, err
	}
	return st.InitPid, nil
}

func readState(dir string) (*runcState, error) {
	path := filepath.Join(dir, "state.json")
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("runc state: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxState {
		return nil, fmt.Errorf("runc state: %s is no file of a sensible size", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("runc state: %w", err)
	}
	var st runcState
	if err := json.Unmarshal(b, &st); err != nil {
		return nil, fmt.Errorf("runc state: %w", err)
	}
	return &st, nil
}

// removeCgroup removes a cgroup and those within it. It never kills: a cgroup
// that stays busy is an error.
func removeCgroup(dir string) error {
	var err error
	for end := time.Now().Add(busyLimit); ; time.Sleep(time.Millisecond) {
		err = unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
		if err := removeWithin(dir); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
	}
}

func removeWithin(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
