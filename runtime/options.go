package runtime

import (
	"fmt"
	"io"
	"os"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxOptions bounds a file of runtime options.
const maxOptions = 1 << 20

// DecodeOptions turns the options of a create request, or of a start action,
// into runc's. They may be runc's own, runtimeoptions.v1 (a TOML file's path, or
// the TOML itself, with the keys of runc's options), containerd 1.7's first kind,
// or nothing at all. Its result is never nil. An unknown key or type is an error of class
// errdefs.ErrInvalidArgument.
func DecodeOptions(a *anypb.Any) (*runcoptions.Options, error) {
	o := &runcoptions.Options{}
	if a == nil || a.GetTypeUrl() == "" {
		return o, nil
	}
	if a.MessageIs(o) {
		if err := a.UnmarshalTo(o); err != nil {
			return nil, fmt.Errorf("runc options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return o, nil
	}
	if a.MessageName() == v1Create {
		return decodeV1Create(a.GetValue())
	}
	generic := &runtimeoptions.Options{}
	if !a.MessageIs(generic) {
		return nil, fmt.Errorf("runtime options of type %q: want %s or %s: %w", a.GetTypeUrl(),
			o.ProtoReflect().Descriptor().FullName(), generic.ProtoReflect().Descriptor().FullName(), errdefs.ErrInvalidArgument)
	}
	if err := a.UnmarshalTo(generic); err != nil {
		return nil, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	body, name := generic.GetConfigBody(), "runtime options in the request"
	// containerd's own rule: the body counts only without a path.
	if path := generic.GetConfigPath(); path != "" {
		var err error
		if body, err = readOptions(path); err != nil {
			return nil, err
		}
		name = path
	}
	if err := decodeTOML(body, o); err != nil {
		return nil, fmt.Errorf("%s: %w: %w\nhint: the keys are those of containerd's runc options, SystemdCgroup and BinaryName for example", name, err, errdefs.ErrInvalidArgument)
	}
	return o, nil
}

func readOptions(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxOptions+1))
	if err != nil {
		return nil, fmt.Errorf("runtime options %s: %w", path, err)
	}
	if len(b) > maxOptions {
		return nil, fmt.Errorf("runtime options %s: larger than %d bytes: %w", path, maxOptions, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

// tomlOptions has the spelling that containerd's configuration uses for runc's
// options in its CRI section.
type tomlOptions struct {
	NoPivotRoot   bool
	NoNewKeyring  bool
	ShimCgroup    string
	IoUid         uint32
	IoGid         uint32
	BinaryName    string
	Root          string
	SystemdCgroup bool
	CriuImagePath string
	CriuWorkPath  string
	// CriuPath left runc's options with containerd 2.0; configurations that
	// still carry it start as before, without its effect.
	CriuPath string
}

func decodeTOML(body []byte, o *runcoptions.Options) error {
	var t tomlOptions
	d := toml.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return err
	}
	o.NoPivotRoot, o.NoNewKeyring = t.NoPivotRoot, t.NoNewKeyring
	o.ShimCgroup = t.ShimCgroup
	o.IoUid, o.IoGid = t.IoUid, t.IoGid
	o.BinaryName, o.Root = t.BinaryName, t.Root
	o.SystemdCgroup = t.SystemdCgroup
	o.CriuImagePath, o.CriuWorkPath = t.CriuImagePath, t.CriuWorkPath
	return nil
}

// SystemdRuns says whether systemd manages this host, as sd_booted(3) does.
func SystemdRuns() bool {
	st, err := os.Lstat("/run/systemd/system")
	return err == nil && st.IsDir()
}

// SystemdCgroupsPath says whether a cgroupsPath has the form that only systemd
// cgroups have, slice:prefix:name. nerdctl and CRI write it, and leave the
// option unset for runtimes whose name they do not know.
func SystemdCgroupsPath(path string) bool {
	parts := strings.Split(path, ":")
	if len(parts) != 3 || strings.Contains(path, "/") {
		return false
	}
	return parts[2] != "" && (parts[0] == "" || strings.HasSuffix(parts[0], ".slice"))
}
