package runtime

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Check reads what a specification says; a symbolic link in a source can point
// elsewhere by the time runc follows it. Exposed looks at what was mounted.

// ExposedError says that a process sees something protected.
type ExposedError struct {
	// Path is what is seen, At where the process sees it.
	Path, At string
}

func (e *ExposedError) Error() string {
	return fmt.Sprintf("%s turned out to be mounted at %s, which no container may see\nhint: a symbolic link in a mount's source was changed while the container was made", e.Path, e.At)
}

// Exposed looks through the mounts of the process pid for one whose root is a
// protected path or within one. It returns an *ExposedError if there is one.
func (p Protected) Exposed(pid int) error {
	own, err := readMounts("self")
	if err != nil {
		return err
	}
	theirs, err := readMounts(strconv.Itoa(pid))
	if err != nil {
		return err
	}
	for _, protected := range p.Paths {
		source, ok := locate(own, protected)
		if !ok {
			continue
		}
		for _, m := range theirs {
			if m.device == source.device && within(m.root, source.root) {
				return &ExposedError{Path: protected, At: m.point}
			}
		}
	}
	return nil
}

// mountEntry is what of a mount says which files it shows.
type mountEntry struct {
	device, root, point string
}

func readMounts(process string) ([]mountEntry, error) {
	f, err := os.Open(filepath.Join("/proc", process, "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("mounts of process %s: %w", process, err)
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("mounts of process %s: %w", process, err)
	}
	out := make([]mountEntry, len(infos))
	for i, m := range infos {
		out[i] = mountEntry{device: fmt.Sprintf("%d:%d", m.Major, m.Minor), root: m.Root, point: m.Mountpoint}
	}
	return out, nil
}

// locate finds on which file system, and where in it, an existing path is.
func locate(mounts []mountEntry, file string) (mountEntry, bool) {
	if err := unix.Access(file, unix.F_OK); err != nil {
		return mountEntry{}, false
	}
	var best mountEntry
	found := false
	for _, m := range mounts {
		// Of two mounts at one point the later hides the earlier.
		if within(file, m.point) && (!found || len(m.point) >= len(best.point)) {
			best, found = m, true
		}
	}
	if !found {
		return mountEntry{}, false
	}
	rel, err := filepath.Rel(best.point, file)
	if err != nil {
		return mountEntry{}, false
	}
	return mountEntry{device: best.device, root: path.Join(best.root, rel), point: file}, true
}
