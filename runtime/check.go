package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CriuConfig is the annotation by which runc takes a CRIU configuration file.
// It can name a script that CRIU runs as root on the host.
const CriuConfig = "org.criu.config"

// CodeMountAbove is the code of a mount of a directory above Sealift's own.
const CodeMountAbove = "mount-above-sealift"

// A Violation is something a specification asks for that no container gets,
// whatever policy says.
type Violation struct {
	// Code is stable: "criu-config", "mount-sealift", CodeMountAbove,
	// "device-tpm", "mount-namespace".
	Code string
	// Subject is the mount, device or annotation.
	Subject string
	Message string
	Hint    string
}

func (v Violation) String() string { return v.Subject + ": " + v.Message }

// Protected is what no container may be given: Sealift's own state and sockets,
// and the TPM.
type Protected struct {
	// Paths are absolute and clean. A mount of one, of anything below it, or of
	// a directory above it is a violation.
	Paths []string
	// Devices are the TPM's device nodes.
	Devices []Device
	// Resolve follows symbolic links on the host; nil means paths as written.
	Resolve func(string) (string, error)
	// Identify tells the directory or file a path leads to, whatever its name
	// there: a bind mount shows one under many. nil means that names decide.
	Identify func(string) (FileID, error)
}

// FileID is a file system and an inode there.
type FileID struct{ Dev, Ino uint64 }

// Check lists what spec may not ask for. It looks at nothing but its arguments
// (and what p.Resolve looks at).
func (p Protected) Check(spec *specs.Spec, bundle string) []Violation {
	var out []Violation
	if _, has := spec.Annotations[CriuConfig]; has {
		out = append(out, Violation{
			Code: "criu-config", Subject: "annotation " + CriuConfig,
			Message: "a container may not bring CRIU's configuration: it can run scripts as root on the host",
			Hint:    "leave out the annotation " + CriuConfig,
		})
	}
	out = append(out, p.checkMounts(spec, bundle)...)
	out = append(out, p.checkDevices(spec)...)
	return out
}

func (p Protected) checkMounts(spec *specs.Spec, bundle string) []Violation {
	var out []Violation
	known := p.aliases()
	add := func(subject, source string, isMount bool) {
		if reached, how := p.reaches(known, source, bundle); reached != "" {
			v := Violation{
				Code: "mount-sealift", Subject: subject,
				Message: fmt.Sprintf("%s %s, which no container may see", how, reached),
				Hint:    "mount only the directories the container needs",
			}
			if how == contains && isMount {
				v.Code = CodeMountAbove
				v.Hint += "; a workload that must see the whole host needs level privileged in a WorkloadPolicy"
			}
			out = append(out, v)
		}
	}
	if spec.Root != nil {
		add("root.path "+spec.Root.Path, spec.Root.Path, false)
	}
	for _, m := range spec.Mounts {
		subject := fmt.Sprintf("mount of %s on %s", m.Source, m.Destination)
		switch {
		case m.Type == "devtmpfs":
			out = append(out, Violation{
				Code: "mount-sealift", Subject: subject, Message: "a devtmpfs holds the TPM's device nodes",
				Hint: "use a tmpfs on /dev and list devices",
			})
		case isBind(m):
			add(subject, m.Source, true)
		}
		// overlay and its like name directories in their options.
		for _, o := range m.Options {
			key, value, ok := strings.Cut(o, "=")
			if !ok || !slices.Contains([]string{"lowerdir", "upperdir", "workdir", "lowerdir+", "datadir+"}, key) {
				continue
			}
			for dir := range strings.SplitSeq(value, ":") {
				if dir != "" {
					add(subject, dir, true)
				}
			}
		}
	}
	if ns := mountNamespace(spec); ns == nil || ns.Path != "" {
		out = append(out, Violation{
			Code: "mount-namespace", Subject: "linux.namespaces",
			Message: "the container has no mount namespace of its own and would see what its owner sees",
			Hint:    "ask for a new mount namespace",
		})
	}
	return out
}

func mountNamespace(spec *specs.Spec) *specs.LinuxNamespace {
	if spec.Linux == nil {
		return nil
	}
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.MountNamespace {
			return &spec.Linux.Namespaces[i]
		}
	}
	return nil
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || m.Type == "rbind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// reaches says which protected path a bind of source would show, and how.
func (p Protected) reaches(a *aliases, source, bundle string) (path, how string) {
	if source == "" {
		return "", ""
	}
	if !filepath.IsAbs(source) {
		source = filepath.Join(bundle, source)
	}
	candidates := []string{filepath.Clean(source)}
	if p.Resolve != nil {
		// What cannot be resolved cannot be mounted either: runc says so.
		if real, err := p.Resolve(source); err == nil {
			candidates = append(candidates, real)
		}
	}
	for _, c := range candidates {
		for _, protected := range p.Paths {
			switch {
			case within(c, protected):
				return protected, "is within"
			case within(protected, c):
				return protected, contains
			}
		}
		if path, how := a.find(c); path != "" {
			return path, how
		}
	}
	return "", ""
}

// aliases knows the protected paths by what they are, for the length of one
// Check. A specification may name thousands of paths with thousands of directories
// each: what was looked at once is not looked at again.
type aliases struct {
	identify    func(string) (FileID, error)
	self, holds map[FileID]string
	seen        map[string]identified
}

type identified struct {
	id  FileID
	err error
}

func (p Protected) aliases() *aliases {
	if p.Identify == nil {
		return nil
	}
	a := &aliases{identify: p.Identify, self: map[FileID]string{}, holds: map[FileID]string{}, seen: map[string]identified{}}
	for _, protected := range p.Paths {
		if id, err := p.Identify(protected); err == nil {
			a.self[id] = protected
		}
		for dir := protected; dir != "/"; {
			dir = filepath.Dir(dir)
			if id, err := p.Identify(dir); err == nil {
				a.holds[id] = protected
			}
		}
	}
	return a
}

func (a *aliases) look(path string) (FileID, error) {
	x, ok := a.seen[path]
	if !ok {
		x.id, x.err = a.identify(path)
		a.seen[path] = x
	}
	return x.id, x.err
}

// find finds out whether source, or a directory above it, is a protected path
// under another name, or source one that holds it. It goes down from the root:
// where a directory is missing, nothing below it can be mounted.
func (a *aliases) find(source string) (path, how string) {
	if a == nil {
		return "", ""
	}
	for at := range above(source) {
		id, err := a.look(at)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG) {
			break
		}
		if err != nil {
			continue // what cannot be looked at cannot be mounted either
		}
		if protected, ok := a.self[id]; ok {
			path, how = protected, "is within another name of"
		} else if protected, ok := a.holds[id]; ok && at == source {
			path, how = protected, contains
		}
	}
	return path, how
}

// above gives the directories above a clean path, from the root down, and then
// the path itself.
func above(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if strings.HasPrefix(path, "/") && !yield("/") {
			return
		}
		for i := 1; i < len(path); i++ {
			if path[i] == '/' && !yield(path[:i]) {
				return
			}
		}
		if path != "/" {
			yield(path)
		}
	}
}

// contains is how a directory that holds a protected path reaches it.
const contains = "contains"

// within says whether path is dir or below it; both are clean and absolute.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

func (p Protected) checkDevices(spec *specs.Spec) []Violation {
	if spec.Linux == nil {
		return nil
	}
	var out []Violation
	add := func(subject string) {
		out = append(out, Violation{
			Code: "device-tpm", Subject: subject, Message: "the TPM is Sealift's own",
			Hint: "give the container a TPM of its own (swtpm), not the host's",
		})
	}
	for _, d := range spec.Linux.Devices {
		if tpmName(d.Path) || slices.ContainsFunc(p.Devices, func(w Device) bool { return w.is(d) }) {
			add(fmt.Sprintf("device %s (%s %d:%d)", d.Path, d.Type, d.Major, d.Minor))
		}
	}
	if spec.Linux.Resources == nil {
		return out
	}
	for _, w := range p.Devices {
		// The last rule that covers the device is the one that holds; making a
		// node ("m") without opening it is harmless.
		reach := false
		for _, r := range spec.Linux.Resources.Devices {
			if w.matches(r) && strings.ContainsAny(r.Access, "rw") {
				reach = r.Allow
			}
		}
		if reach {
			add(fmt.Sprintf("device rule for %s %d:%d", w.Type, w.Major, w.Minor))
		}
	}
	return out
}

func tpmName(path string) bool {
	base, ok := strings.CutPrefix(path, "/dev/tpm")
	if !ok {
		return false
	}
	base = strings.TrimPrefix(base, "rm")
	return base != "" && strings.Trim(base, "0123456789") == ""
}
