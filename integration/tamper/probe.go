package tamper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/image-spec/identity"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/runtime"
)

// Probe is a running integration/probe: it says to the agent what it is told.
type Probe struct {
	mu  sync.Mutex
	in  *os.File
	out *bufio.Reader
}

// NewProbe starts the program at path inside.
func (s *Stage) NewProbe(path string) (*Probe, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	rr, ww := io.Pipe()
	if _, err := s.Start(host.Cmd{Args: []string{path, "serve"}, Stdin: r, Stdout: ww, Stderr: os.Stderr}); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &Probe{in: w, out: bufio.NewReaderSize(rr, 1<<20)}, nil
}

// Close ends the program.
func (p *Probe) Close() error { return p.in.Close() }

// Call sends one request of the node API and reads its answer.
func (p *Probe) Call(method string, req, resp proto.Message) error {
	m, err := protojson.Marshal(req)
	if err != nil {
		return err
	}
	b, err := p.exchange(map[string]any{"method": method, "message": json.RawMessage(m)})
	if err != nil {
		return err
	}
	return protojson.Unmarshal(b, resp)
}

// Raw writes bytes on a connection of their own.
func (p *Probe) Raw(b []byte) error {
	_, err := p.exchange(map[string]any{"raw": b})
	return err
}

// View mounts the layers, bottom first, with an upper as a container's root and
// describes all that can be seen, a line for each path.
func (p *Probe) View(lower []string, upper, work string) (lines []string, err error) {
	b, err := p.exchange(map[string]any{"view": map[string]any{"lower": lower, "upper": upper, "work": work}})
	if err != nil {
		return nil, err
	}
	return lines, json.Unmarshal(b, &lines)
}

// Mount puts EROFS images on the directories 0, 1, ... below at; with none it
// takes away what is there.
func (p *Probe) Mount(images []string, at, options string) error {
	_, err := p.exchange(map[string]any{"mount": map[string]any{"images": images, "at": at, "options": options}})
	return err
}

func (p *Probe) exchange(q any) (json.RawMessage, error) {
	line, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	answer, err := p.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	var a struct {
		Error   string          `json:"error"`
		Message json.RawMessage `json:"message"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if a.Error != "" {
		return nil, &CallError{a.Error}
	}
	return a.Message, nil
}

// CallError is what the agent, or the connection to it, answered.
type CallError struct{ Text string }

func (e *CallError) Error() string { return e.Text }

// Create makes a container of the image, as `ctr container create` does, but
// asks the image's configuration nothing: that would need its files mounted
// where the test runs.
func (s *Stage) Create(ctx context.Context, ns, id, snapshotter string, img containerd.Image, opts ...oci.SpecOpts) (containerd.Container, error) {
	ctx = namespaces.WithNamespace(ctx, ns)
	c, err := s.Client.NewContainer(ctx, id, containerd.WithSnapshotter(snapshotter), containerd.WithImage(img), containerd.WithNewSnapshot(id, img),
		containerd.WithRuntime(node.Sealift, nil), Spec(opts...))
	if err != nil {
		return nil, fmt.Errorf("container %s/%s: %w", ns, id, err)
	}
	return c, nil
}

// Spec is what the containers of the tests run when it is only about their
// start.
func Spec(opts ...oci.SpecOpts) containerd.NewContainerOpts {
	return containerd.WithNewSpec(append([]oci.SpecOpts{oci.WithProcessArgs("/bin/true"), oci.WithDefaultPathEnv}, opts...)...)
}

// CreateApart makes a container that names the image and no snapshot, and a
// snapshot of the image beside it, whose mounts a client can then give to the
// task, changed or not.
func (s *Stage) CreateApart(ctx context.Context, ns, id, snapshotter string, img containerd.Image) (containerd.Container, []mount.Mount, error) {
	ctx = namespaces.WithNamespace(ctx, ns)
	ids, err := img.RootFS(ctx)
	if err != nil {
		return nil, nil, err
	}
	mounts, err := s.Client.SnapshotService(snapshotter).Prepare(ctx, id, identity.ChainID(ids).String(),
		snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"}))
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s/%s: %w", ns, id, err)
	}
	c, err := s.Client.NewContainer(ctx, id, containerd.WithImage(img), containerd.WithRuntime(node.Sealift, nil), Spec())
	if err != nil {
		return nil, nil, fmt.Errorf("container %s/%s: %w", ns, id, err)
	}
	return c, mounts, nil
}

// Request is what a shim would ask the agent for the container.
func (s *Stage) Request(ctx context.Context, ns string, c containerd.Container) (*nodev1.LaunchRequest, error) {
	ctx = namespaces.WithNamespace(ctx, ns)
	info, err := c.Info(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := s.Client.SnapshotService(info.Snapshotter).Mounts(ctx, info.SnapshotKey)
	if err != nil {
		return nil, err
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return nil, err
	}
	bundle := filepath.Join("/run/containerd/io.containerd.runtime.v2.task", ns, c.ID())
	spec.Root.Path = bundle + "/rootfs"
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return &nodev1.LaunchRequest{Namespace: ns, Id: c.ID(), Bundle: bundle, Spec: b, Rootfs: nodeMounts(mounts),
		ContainerdAddress: "/run/containerd/containerd.sock"}, nil
}

func nodeMounts(mounts []mount.Mount) (out []*nodev1.Mount) {
	for _, m := range mounts {
		options := m.Options
		if m.Type == "overlay" {
			options = runtime.OverlayOptions(options)
		}
		out = append(out, &nodev1.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: options})
	}
	return out
}

// Probe is the one at a shim's path.
func (s *Stage) Probe() *Probe { return s.probe }

// Launch asks the agent as a shim would, and creates nothing.
func (s *Stage) Launch(req *nodev1.LaunchRequest) (*nodev1.LaunchResponse, error) {
	resp := &nodev1.LaunchResponse{}
	return resp, s.probe.Call("Launch", req, resp)
}

// Burst asks for launches that are released together, and returns their
// sequence numbers.
func (s *Stage) Burst(reqs []*nodev1.LaunchRequest) (seqs []uint64, err error) {
	var raw []json.RawMessage
	for _, r := range reqs {
		m, err := protojson.Marshal(r)
		if err != nil {
			return nil, err
		}
		raw = append(raw, m)
	}
	b, err := s.probe.exchange(map[string]any{"method": "Burst", "message": raw})
	if err != nil {
		return nil, err
	}
	return seqs, json.Unmarshal(b, &seqs)
}
