package runtime

import (
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Spec is a specification in its final form. It is data only: what of it depends
// on the host was decided by whoever made it.
type Spec struct {
	// Bytes are the config.json that is measured and that runc reads.
	Bytes []byte
	// OCI is what runc's decoder makes of Bytes.
	OCI *specs.Spec
	// Edits names what was changed, for the log.
	Edits []string
}

// SpecOptions say how FinalSpec edits a specification.
type SpecOptions struct {
	// Bundle is the bundle directory, absolute and without symbolic links; a
	// relative root path is taken from there.
	Bundle string
	// MountedRootfs says that the shim will mount the root file system, which it
	// does at Bundle/rootfs and nowhere else.
	MountedRootfs bool
	// CgroupsPath, unless empty, replaces the cgroup.
	CgroupsPath string
	// Withhold lists device nodes that a container allowed every device must
	// not reach all the same.
	Withhold []Device
}

// FinalSpec parses config.json and makes the specification that is measured. It
// changes only what it must, byte by byte, so that fields this build does not
// know are kept. Its error is of class errdefs.ErrInvalidArgument.
func FinalSpec(config []byte, o SpecOptions) (*Spec, error) {
	var (
		rootPath    = field("root", "path")
		cgroupsPath = field("linux", "cgroupsPath")
		devices     = field("linux", "devices")
		rules       = field("linux", "resources", "devices")
	)
	at, err := scanJSON(config, rootPath, cgroupsPath, devices, rules)
	if err != nil {
		return nil, err
	}
	spec, err := decode(config)
	if err != nil {
		return nil, err
	}
	if spec.Root == nil || spec.Root.Path == "" {
		return nil, fmt.Errorf("config.json: root.path is missing: %w", errdefs.ErrInvalidArgument)
	}
	f := &Spec{}
	var edits []edit
	replace := func(where string, value any, what string) error {
		b, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("config.json: %s: %w", what, err)
		}
		edits = append(edits, edit{at[where], b})
		f.Edits = append(f.Edits, what)
		return nil
	}

	root := spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(o.Bundle, root)
		if err := replace(rootPath, root, "root.path made absolute"); err != nil {
			return nil, err
		}
	}
	if want := filepath.Join(o.Bundle, "rootfs"); o.MountedRootfs && filepath.Clean(root) != want {
		return nil, fmt.Errorf("config.json: root.path is %s, but the root file system that was asked for is mounted at %s: %w", root, want, errdefs.ErrInvalidArgument)
	}
	if _, has := at[cgroupsPath]; has && o.CgroupsPath != "" && spec.Linux.CgroupsPath != o.CgroupsPath {
		if err := replace(cgroupsPath, o.CgroupsPath, "linux.cgroupsPath moved to a cgroup of its own"); err != nil {
			return nil, err
		}
	}
	if len(o.Withhold) > 0 && allowsAllDevices(spec) {
		if _, has := at[devices]; has {
			kept := slices.DeleteFunc(slices.Clone(spec.Linux.Devices), func(d specs.LinuxDevice) bool {
				return slices.ContainsFunc(o.Withhold, func(w Device) bool { return w.is(d) })
			})
			if len(kept) != len(spec.Linux.Devices) {
				if err := replace(devices, kept, "linux.devices: TPM withheld"); err != nil {
					return nil, err
				}
			}
		}
		denied := slices.Clone(spec.Linux.Resources.Devices)
		for _, w := range o.Withhold {
			denied = append(denied, specs.LinuxDeviceCgroup{Type: w.Type, Major: &w.Major, Minor: &w.Minor, Access: "rwm"})
		}
		if err := replace(rules, denied, "linux.resources.devices: TPM withheld"); err != nil {
			return nil, err
		}
	}
	f.Bytes = config
	if len(edits) > 0 {
		f.Bytes = splice(config, edits)
	}
	if f.OCI, err = decode(f.Bytes); err != nil {
		return nil, err
	}
	return f, nil
}

func decode(config []byte) (*specs.Spec, error) {
	var s specs.Spec
	if err := json.Unmarshal(config, &s); err != nil {
		return nil, fmt.Errorf("config.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return &s, nil
}

// OwnCgroupsPath is cgroupsPath with its last part replaced by id: the cgroup
// of a restored container whose specification still names the one it was
// checkpointed in.
func OwnCgroupsPath(cgroupsPath, id string) string {
	if SystemdCgroupsPath(cgroupsPath) {
		parts := strings.Split(cgroupsPath, ":")
		return strings.Join([]string{parts[0], parts[1], id}, ":")
	}
	return path.Join(path.Dir(cgroupsPath), id)
}

// Device is a device node by number.
type Device struct {
	Type         string // "c" or "b"
	Major, Minor int64
}

func (w Device) is(d specs.LinuxDevice) bool {
	sameType := d.Type == w.Type || d.Type == "u" && w.Type == "c"
	return sameType && d.Major == w.Major && d.Minor == w.Minor
}

// matches says whether a rule of the device cgroup covers w.
func (w Device) matches(r specs.LinuxDeviceCgroup) bool {
	all := func(n *int64) bool { return n == nil || *n == -1 }
	return (r.Type == "" || r.Type == "a" || r.Type == w.Type) &&
		(all(r.Major) || *r.Major == w.Major) && (all(r.Minor) || *r.Minor == w.Minor)
}

// allowsAllDevices says whether the device cgroup ends up open to every device,
// as it does for what is called a privileged container.
func allowsAllDevices(s *specs.Spec) bool {
	if s.Linux == nil || s.Linux.Resources == nil {
		return false
	}
	open := false
	for _, r := range s.Linux.Resources.Devices {
		if (r.Type == "" || r.Type == "a") && r.Major == nil && r.Minor == nil && strings.Contains(r.Access, "r") {
			open = r.Allow
		}
	}
	return open
}
