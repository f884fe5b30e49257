package tamper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/image-spec/identity"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/eventlog"
)

// patience bounds what is waited for: only what never happens takes as long, on
// however busy a machine.
const patience = time.Minute

// Stage is a node with the images at hand, and the means to look into it and
// reach under it from outside. Every containerd namespace has layers of its own,
// so that a change in one is none in another.
type Stage struct {
	*node.Node
	Client       *containerd.Client
	Image, Other *image.Image
	probe        *Probe
}

// NewStage makes a node.
func NewStage(ctx context.Context, o node.Options) (_ *Stage, err error) {
	s := &Stage{}
	if s.Image, err = made.Image(ctx, "tamper", Image); err != nil {
		return nil, err
	}
	if s.Other, err = made.Image(ctx, "tamper-other", Other); err != nil {
		return nil, err
	}
	// The probe is at a shim's other path, so that it may speak to the agent.
	tool, err := made.Tool(ctx, "probe")
	if err != nil {
		return nil, err
	}
	o.Binds = append(o.Binds, host.Bind{Source: tool, Target: ProbeAsShim})
	if s.Node, err = node.New(ctx, o); err != nil {
		return nil, err
	}
	if err := s.Connect(); err != nil {
		return nil, errors.Join(err, s.Node.Close())
	}
	if s.probe, err = s.NewProbe(ProbeAsShim); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// TestStage makes a node that ends with the test. A failed test shows the
// daemons' logs.
func TestStage(t testing.TB, o node.Options) *Stage {
	t.Helper()
	s, err := NewStage(t.Context(), o)
	skip.On(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			s.DumpLogs(t.Output())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ProbeAsShim is one of the two paths where the agent expects a shim; the shim
// itself is at the other.
const ProbeAsShim = "/usr/bin/containerd-shim-sealift-v2"

// Connect makes a client of the node's containerd, again after its restart.
func (s *Stage) Connect() (err error) {
	if s.Client != nil {
		if err := s.Client.Close(); err != nil {
			return err
		}
	}
	s.Client, err = containerd.New(s.Inside("/run/containerd/containerd.sock"), containerd.WithTimeout(patience))
	return err
}

// Close ends the node.
func (s *Stage) Close() error {
	var errs []error
	if s.probe != nil {
		errs = append(errs, s.probe.Close())
	}
	if s.Client != nil {
		errs = append(errs, s.Client.Close())
	}
	return errors.Join(append(errs, s.Node.Close())...)
}

// Inside is the machine's path of a file inside.
func (s *Stage) Inside(path string) string {
	return filepath.Join("/proc", fmt.Sprint(s.PID), "root", path)
}

// Import gives a namespace an image and unpacks it for a snapshotter.
func (s *Stage) Import(ctx context.Context, ns, snapshotter string, img *image.Image) (containerd.Image, error) {
	ctx = namespaces.WithNamespace(ctx, ns)
	r, w := io.Pipe()
	go func() { w.CloseWithError(img.Archive(w)) }()
	imgs, err := s.Client.Import(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	i := containerd.NewImage(s.Client, imgs[0])
	if err := i.Unpack(ctx, snapshotter); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return i, nil
}

// View is the mounts of a read-only view of an image.
func (s *Stage) View(ctx context.Context, ns, snapshotter string, img *image.Image) ([]mount.Mount, error) {
	ctx, done, err := s.Client.WithLease(namespaces.WithNamespace(ctx, ns))
	if err != nil {
		return nil, fmt.Errorf("view: %w", err)
	}
	sn := s.Client.SnapshotService(snapshotter)
	key := "look-" + fmt.Sprint(time.Now().UnixNano())
	m, err := sn.View(ctx, key, identity.ChainID(img.DiffIDs).String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("view: %w", err), done(ctx))
	}
	return m, errors.Join(sn.Remove(ctx, key), done(ctx))
}

// Layers are the directories of an image's layers, as the machine reaches them,
// bottom first.
func (s *Stage) Layers(ctx context.Context, ns, snapshotter string, img *image.Image) ([]string, error) {
	mounts, err := s.View(ctx, ns, snapshotter, img)
	if err != nil {
		return nil, err
	}
	for _, o := range mounts[len(mounts)-1].Options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			var out []string
			for d := range strings.SplitSeq(dirs, ":") {
				out = append([]string{s.Inside(d)}, out...)
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("no lowerdir in %v", mounts)
}

// Policy writes a policy file and waits until it is in force.
func (s *Stage) Policy(ctx context.Context, name, text string) error {
	count := func() (n int, err error) {
		err = s.Log(func(r *eventlog.Record) error {
			if r.Type == "policy" {
				n++
			}
			return nil
		})
		return n, err
	}
	before, err := count()
	if err != nil {
		return err
	}
	if err := s.WritePolicy(ctx, name, text); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if n, err := count(); err != nil || n > before {
			return err
		}
	}
	return fmt.Errorf("policy %s: the agent did not take it", name)
}

// Run is `ctr run --rm` under Sealift.
func (s *Stage) Run(ctx context.Context, ns, id string, flags []string, args ...string) (string, error) {
	line := append([]string{"ctr", "-n", ns, "run", "--rm", "--runtime", node.Sealift}, flags...)
	return s.Node.Run(ctx, append(append(line, Name, id), args...)...)
}

// Left names whatever there still is of a container that was refused.
func (s *Stage) Left(ctx context.Context, ns, id string) error {
	var err error
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if err = s.left(ctx, ns, id); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (s *Stage) left(ctx context.Context, ns, id string) error {
	for _, dir := range []string{"/run/containerd/io.containerd.runtime.v2.task", "/run/sealift/bundles", "/run/containerd/runc", "/var/lib/containerd/io.containerd.runtime.v2.task"} {
		switch _, err := os.Lstat(s.Inside(filepath.Join(dir, ns, id))); {
		case err == nil:
			return fmt.Errorf("directory %s/%s/%s is left", dir, ns, id)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.PID))
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if strings.Contains(line, "/"+ns+"/"+id) {
			return fmt.Errorf("mount is left: %s", line)
		}
	}
	procs, err := filepath.Glob(s.Inside("/proc/[0-9]*/cmdline"))
	if err != nil {
		return err
	}
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // ended meanwhile
		}
		args := strings.Split(string(b), "\x00")
		if strings.Contains(args[0], "containerd-shim") && bytes.Contains(b, []byte("\x00"+ns+"\x00")) && bytes.Contains(b, []byte("\x00"+id+"\x00")) {
			return fmt.Errorf("process is left: %q", args)
		}
	}
	ctx = namespaces.WithNamespace(ctx, ns)
	if _, err := s.Client.ContainerService().Get(ctx, id); err == nil {
		return fmt.Errorf("container %s/%s is left", ns, id)
	}
	for _, sn := range []string{"overlayfs", "native"} {
		if _, err := s.Client.SnapshotService(sn).Stat(ctx, id); err == nil {
			return fmt.Errorf("%s snapshot %s/%s is left", sn, ns, id)
		}
	}
	return nil
}
