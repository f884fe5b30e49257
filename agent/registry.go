package agent

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/runtime"
)

// container is one that this agent, or one before it in this boot, let start.
type container struct {
	Namespace   string `json:"namespace"`
	ID          string `json:"id"`
	Image       string `json:"image,omitempty"`
	Manifest    string `json:"manifest,omitempty"`
	Class       string `json:"class,omitempty"`
	Seq         uint64 `json:"seq"`
	WouldRefuse bool   `json:"would_refuse,omitempty"`
	// State is "created", "running", "stopped" or "unproven": running, and
	// launched under a history that was lost.
	State string `json:"state"`
	PID   uint32 `json:"pid,omitempty"`
	// Cgroups are the paths of its init process, as in /proc/PID/cgroup.
	Cgroups []string `json:"cgroups,omitempty"`
}

func (c *container) key() string { return c.Namespace + "/" + c.ID }

// registry holds the launched containers; it outlives the agent in a directory
// that a reboot empties.
type registry struct {
	dir string
	mu  sync.Mutex
	m   map[string]*container
}

func openRegistry(dir string) (*registry, error) {
	r := &registry{dir: dir, m: map[string]*container{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".json") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var c container
		if err := json.Unmarshal(b, &c); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r.m[c.key()] = &c
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return r, nil
}

// put adds or replaces c.
func (r *registry) put(c *container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m[c.key()] = c
	return r.save(c)
}

// update changes a container and reports whether it is known.
func (r *registry) update(ns, id string, f func(*container)) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.m[ns+"/"+id]
	if c == nil {
		return false, nil
	}
	f(c)
	return true, r.save(c)
}

func (r *registry) get(ns, id string) (container, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.m[ns+"/"+id]
	if c == nil {
		return container{}, false
	}
	return *c, true
}

func (r *registry) remove(ns, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.m[ns+"/"+id]
	if c == nil {
		return nil
	}
	delete(r.m, c.key())
	if err := os.Remove(r.file(c)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}

func (r *registry) list() []container {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []container
	for _, c := range r.m {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b container) int { return strings.Compare(a.key(), b.key()) })
	return out
}

// OwnsCgroup implements peer.Containers.
func (r *registry) OwnsCgroup(path string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.m {
		for _, own := range c.Cgroups {
			if path == own || strings.HasPrefix(path, own+"/") {
				return c.key(), true
			}
		}
	}
	return "", false
}

func (r *registry) file(c *container) string { return filepath.Join(r.dir, c.Namespace, c.ID+".json") }

func (r *registry) save(c *container) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	file := r.file(c)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}

// cgroupsOf reads the cgroups of a process, leaving out the roots, which say
// nothing.
func cgroupsOf(pid int) ([]string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) == 3 && parts[2] != "/" && !slices.Contains(out, parts[2]) {
			out = append(out, parts[2])
		}
	}
	return out, nil
}

// ownCgroups are the cgroups that are the container's alone. On cgroup v1 a
// runtime leaves init where the shim is in the hierarchies it does not manage,
// and a spec can name any cgroup: one that holds the shim or the agent must not
// pass for the container's, or everything in it would be turned away as such.
func ownCgroups(init int) ([]string, error) {
	all, err := cgroupsOf(init)
	if err != nil {
		return nil, err
	}
	parent, err := parentOf(init)
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, pid := range []int{parent, os.Getpid()} {
		c, err := cgroupsOf(pid)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, c...)
	}
	own := exclusive(all, hosts)
	if len(all) > 0 && len(own) == 0 {
		return nil, fmt.Errorf("its cgroup %s is one that its shim or the agent is in\nhint: leave cgroupsPath out, or name one of the container's own", all[0])
	}
	return own, nil
}

// expectedCgroups are the cgroups that a container to be restored will live in,
// by its spec: its processes run before anybody can tell their pids.
func expectedCgroups(s *specs.Spec, systemd bool) ([]string, error) {
	if s == nil || s.Linux == nil || s.Linux.CgroupsPath == "" {
		return nil, nil
	}
	dir := runtime.CgroupDir(s.Linux.CgroupsPath, systemd)
	if !filepath.IsAbs(dir) || dir == "/" {
		return nil, nil
	}
	hosts, err := cgroupsOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	return exclusive([]string{dir}, hosts), nil
}

// exclusive are the cgroups in which, and below which, none of the others lie.
func exclusive(all, others []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(c string) bool {
		return slices.ContainsFunc(others, func(o string) bool { return o == c || strings.HasPrefix(o, c+"/") })
	})
}

func parentOf(pid int) (int, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "PPid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, fmt.Errorf("process %d: its status names no parent", pid)
}

func (c *container) proto() *nodev1.Container {
	return &nodev1.Container{Namespace: c.Namespace, Id: c.ID, Image: c.Image, Manifest: c.Manifest, Binding: c.Class, Seq: c.Seq,
		Pid: c.PID, State: c.State, Runtime: "io.containerd.sealift.v2", WouldRefuse: c.WouldRefuse}
}
