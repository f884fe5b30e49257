package launch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/runtime"
)

// Bind is content from elsewhere that the spec mounts into the container: a host
// path, or any file system that is not made of nothing.
type Bind struct {
	Destination string `json:"destination"`
	Source      string `json:"source"`
	// SHA256 is the content of a regular file; empty for anything else.
	SHA256 string `json:"sha256,omitempty"`
	// Type is what the host has at Source, or the file system's name. A file of
	// /proc and its like is a "kernel-file", and not read.
	Type string `json:"type"`
	// CoversImage says that the image has something at the destination.
	CoversImage bool `json:"covers_image,omitempty"`
	Writable    bool `json:"writable,omitempty"`
}

// Hook is an OCI hook: a host program that runs around the container's start.
type Hook struct {
	Stage  string `json:"stage"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

// maxBindHash bounds what one start reads of host files.
const maxBindHash = 64 << 20

// parseSpec reads config.json as runc does.
func parseSpec(b []byte) (*specs.Spec, error) {
	var s specs.Spec
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if dec.More() {
		return nil, errors.New("config.json: more than one JSON value")
	}
	if s.Process == nil || s.Root == nil || s.Linux == nil {
		return nil, errors.New("config.json: no process, root or linux section")
	}
	return &s, nil
}

// forbidden lists what a spec may never ask for, whatever the content policy.
// At level privileged a mount of a directory above Sealift's own is let through.
func forbidden(s *specs.Spec, bundle string, privileged bool) ([]*nodev1.Reason, error) {
	protected, err := runtime.HostProtected()
	if err != nil {
		return nil, err
	}
	var out []*nodev1.Reason
	for _, v := range protected.Check(s, bundle) {
		if v.Code == runtime.CodeMountAbove && privileged {
			continue
		}
		out = append(out, &nodev1.Reason{Code: v.Code, Subject: v.Subject, Message: v.Message, Hint: v.Hint})
	}
	return out, nil
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || m.Type == "rbind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// empty are the file systems that bring nothing along but what the kernel says.
var empty = map[string]bool{"": true, "proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "mqueue": true, "cgroup": true, "cgroup2": true}

// binds describes what the spec mounts from elsewhere.
func binds(s *specs.Spec, lowers []string) ([]Bind, error) {
	var out []Bind
	budget := int64(maxBindHash)
	for _, m := range s.Mounts {
		if !isBind(m) {
			if !empty[m.Type] {
				out = append(out, Bind{Destination: m.Destination, Source: m.Source, Type: m.Type, Writable: !slices.Contains(m.Options, "ro"),
					CoversImage: inImage(lowers, m.Destination)})
			}
			continue
		}
		b := Bind{Destination: m.Destination, Source: m.Source, Writable: !slices.Contains(m.Options, "ro"), CoversImage: inImage(lowers, m.Destination)}
		var err error
		b.Type, b.SHA256, err = hashFile(m.Source, &budget)
		if err != nil {
			return nil, fmt.Errorf("mount of %s on %s: %w", m.Source, m.Destination, err)
		}
		out = append(out, b)
	}
	return out, nil
}

// kernelFiles are the file systems whose regular files are no stored content but
// what the kernel answers: reading one can wait for ever (/proc/kmsg, trace_pipe)
// or take away what another reader waits for.
var kernelFiles = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true,
	unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true, unix.SECURITYFS_MAGIC: true, unix.BPF_FS_MAGIC: true,
	unix.SELINUX_MAGIC: true, unix.SMACK_MAGIC: true, unix.PSTOREFS_MAGIC: true, unix.EFIVARFS_MAGIC: true,
	unix.BINFMTFS_MAGIC: true, unix.NSFS_MAGIC: true, unix.RDTGROUP_SUPER_MAGIC: true,
}

// hashFile returns the kind of path and, of a regular file that the budget has
// room for, its SHA-256.
func hashFile(path string, budget *int64) (kind, sum string, err error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return "missing", "", nil
	}
	if err != nil {
		return "", "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", "", err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory", "", nil
	case unix.S_IFREG:
		var fs unix.Statfs_t
		if err := unix.Fstatfs(fd, &fs); err != nil {
			return "", "", err
		}
		if kernelFiles[int64(fs.Type)] {
			return "kernel-file", "", nil
		}
	case unix.S_IFSOCK:
		return "socket", "", nil
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device", "", nil
	default:
		return "other", "", nil
	}
	if st.Size > *budget {
		return "large-file", "", nil
	}
	*budget -= st.Size
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxBindHash)); err != nil {
		return "", "", err
	}
	return "file", hex.EncodeToString(h.Sum(nil)), nil
}

// hooks describes the OCI hooks of the spec, in the order of their stages.
func hooks(s *specs.Spec) ([]Hook, error) {
	if s.Hooks == nil {
		return nil, nil
	}
	budget := int64(maxBindHash)
	var out []Hook
	for _, st := range []struct {
		name  string
		hooks []specs.Hook
	}{
		{"prestart", s.Hooks.Prestart}, //nolint:staticcheck // runc still runs them
		{"createRuntime", s.Hooks.CreateRuntime}, {"createContainer", s.Hooks.CreateContainer},
		{"startContainer", s.Hooks.StartContainer}, {"poststart", s.Hooks.Poststart}, {"poststop", s.Hooks.Poststop},
	} {
		for _, h := range st.hooks {
			_, sum, err := hashFile(h.Path, &budget)
			if err != nil {
				return nil, fmt.Errorf("hook %s: %w", h.Path, err)
			}
			out = append(out, Hook{Stage: st.name, Path: h.Path, SHA256: sum})
		}
	}
	return out, nil
}
