package host

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroup is one hierarchy of the machine, and the host's place in it. Machines
// have one (v2), a dozen (v1), or both (hybrid); a host gets the same.
type cgroup struct {
	// Point is where the hierarchy is mounted, Options what it is mounted with.
	Point, Type, Options string
	// Dir is the host's own directory.
	Dir string
}

// planCgroups finds the hierarchies. The host's group is a child of ours in v1,
// to stay within what limits us, but of the root in v2, where a group that has
// processes cannot have children with controllers.
func planCgroups(name string) ([]cgroup, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var all []cgroup
	sc := bufio.NewScanner(bytes.NewReader(mounts))
	for sc.Scan() {
		c, root, ok := parseCgroupMount(sc.Text())
		if !ok {
			continue
		}
		parent := c.Point
		if c.Type == "cgroup" {
			path, err := filepath.Rel(root, ownPath(own, c.Options))
			if err != nil || strings.HasPrefix(path, "..") {
				return nil, fmt.Errorf("%s: our own group is not below what is mounted: %w", c.Point, errors.ErrUnsupported)
			}
			parent = filepath.Join(c.Point, path)
		}
		c.Dir = filepath.Join(parent, "sealift-"+name)
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no cgroups below %s: %w", cgroupRoot, errors.ErrUnsupported)
	}
	return all, nil
}

// parseCgroupMount reads a line of mountinfo (proc_pid_mountinfo(5)).
func parseCgroupMount(line string) (c cgroup, root string, ok bool) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 5 || len(r) < 3 || !strings.HasPrefix(r[0], "cgroup") || !strings.HasPrefix(l[4], cgroupRoot) {
		return c, "", false
	}
	c = cgroup{Point: l[4], Type: r[0]}
	if c.Type == "cgroup" {
		var o []string
		for _, w := range strings.Split(r[2], ",") {
			if w != "rw" && w != "ro" && !strings.HasPrefix(w, "release_agent=") && w != "xattr" {
				o = append(o, w)
			}
		}
		c.Options = strings.Join(o, ",")
	}
	return c, l[3], true
}

// ownPath finds our path in the v1 hierarchy with these mount options.
func ownPath(own []byte, options string) string {
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && f[1] == options {
			return f[2]
		}
	}
	return "/"
}

func (c cgroup) make() error {
	if c.Type == "cgroup2" {
		// Best effort: a controller that cannot be handed down is one that
		// containers on this machine do without.
		if err := enableAll(c.Point); err != nil {
			return err
		}
		return os.MkdirAll(filepath.Join(c.Dir, "init"), 0o755)
	}
	if err := os.Mkdir(c.Dir, 0o755); err != nil {
		return err
	}
	// A new cpuset is empty, and nothing can enter an empty one.
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(c.Dir), f))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.Dir, f), b, 0); err != nil {
			return err
		}
	}
	return nil
}

// enter moves the calling process into dir.
func (c cgroup) enter(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// settle leaves a v2 root free of processes, so that it can hand its
// controllers down to containers.
func (c cgroup) settle() error {
	if c.Type != "cgroup2" {
		return nil
	}
	if err := c.enter(filepath.Join(c.Dir, "init")); err != nil {
		return err
	}
	return enableAll(c.Dir)
}

// enableAll hands every controller of a v2 group down to its children; those
// that the kernel refuses (real-time processes hold the cpu controller back)
// are left out.
func enableAll(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(b)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	return nil
}

// remove removes the host's group and all below it. Processes that have just
// been killed leave their groups a moment later.
func (c cgroup) remove() error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = removeGroup(c.Dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return err
}

func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}
