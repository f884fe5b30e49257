package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/fault"
	"github.com/sealift/sealift/runtime"
)

// Create asks the agent for the container and makes it only once the launch is
// in the log and the TPM. A refusal leaves nothing behind.
func (s *service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	p, err := s.prepare(ns, r)
	if err != nil {
		err = fmt.Errorf("sealift refused %s/%s: %w", ns, r.ID, err)
		log.G(ctx).WithError(err).WithField("namespace", ns).WithField("container", r.ID).Error("create request is not sound")
		// The agent never hears of the container itself, but it notes who asked
		// for what cannot be.
		s.createFailed(ns, r.ID, err)
		return nil, errgrpc.ToGRPC(err)
	}
	if err := s.reserve(r.ID, p.container); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := p.reserve(); err != nil {
		s.drop(r.ID)
		return nil, errgrpc.ToGRPC(fmt.Errorf("sealift refused %s/%s: %w", ns, r.ID, err))
	}
	if err := s.launch(ctx, p); err != nil {
		s.forget(r.ID, p.container)
		if undecided(err) {
			// The agent may have committed what will not be made.
			s.createFailed(ns, r.ID, err)
		}
		return nil, refusal(ns, r.ID, err)
	}
	resp, err := s.create(ctx, p)
	if err != nil {
		s.abandon(r.ID, p)
		s.createFailed(ns, r.ID, err)
		return nil, errgrpc.ToGRPC(err)
	}
	s.created(p.container)
	return resp, nil
}

// reserve takes the container's private bundle before the agent is asked, so
// that nothing is asked for a container whose name is taken.
func (p *plan) reserve() error {
	left, err := stateLeft(p.root, p.request.ID)
	if err != nil {
		return err
	}
	m := p.container.measured
	if left {
		return fmt.Errorf("the OCI runtime has a container of this name in %s: %w", m.State, errdefs.ErrAlreadyExists)
	}
	return m.Private.Reserve(p.bundle, func() bool { return true })
}

// abandon forgets a container that could not be made. Where runc was stopped
// half-way its private bundle stays: it tells the delete action, which containerd
// runs next, that runc's state is ours to clear.
func (s *service) abandon(id string, p *plan) {
	if left, err := stateLeft(p.root, id); err != nil || left {
		s.drop(id)
		s.monitor.Forget(p.container.measured.Bundle)
		return
	}
	s.forget(id, p.container)
}

func (s *service) createFailed(namespace, id string, why error) {
	s.reports.send(&nodev1.ReportRequest{
		Namespace: namespace, Id: id, Kind: nodev1.ReportKind_REPORT_KIND_CREATE_FAILED, AtUnixNano: time.Now().UnixNano(),
		Detail: []byte(why.Error()),
	})
}

// plan is a create request that has been read and checked, and as what it will
// be carried out.
type plan struct {
	namespace string
	request   *taskapi.CreateTaskRequest
	options   *runcoptions.Options
	spec      *runtime.Spec
	container *container
	// bundle is containerd's bundle directory, without symbolic links.
	bundle string
	// root is the directory that holds the OCI runtime's state directories.
	root string
}

// prepare decides what will be made, without making it.
func (s *service) prepare(ns string, r *taskapi.CreateTaskRequest) (*plan, error) {
	private, err := runtime.Private(s.bundles, ns, r.ID)
	if err != nil {
		return nil, err
	}
	bundle, err := realBundle(r.Bundle, r.ID)
	if err != nil {
		return nil, err
	}
	options, err := runtime.DecodeOptions(r.Options)
	if err != nil {
		return nil, err
	}
	// containerd before 2.0 takes the checkpoint's path out of the options only for
	// runtimes whose name begins with io.containerd.runc, and would start the
	// container afresh here.
	checkpoint := r.Checkpoint
	if checkpoint == "" {
		if checkpoint, err = checkpointDir(options.GetCriuImagePath()); err != nil {
			return nil, err
		}
	}
	config, err := runtime.ReadConfig(bundle)
	if err != nil {
		return nil, err
	}
	protected, err := runtime.HostProtected()
	if err != nil {
		return nil, err
	}
	edit := runtime.SpecOptions{Bundle: bundle, MountedRootfs: len(r.Rootfs) > 0, Withhold: protected.Devices}
	spec, err := runtime.FinalSpec(config, edit)
	if err != nil {
		return nil, err
	}
	cgroups := cgroupsPath(spec)
	if checkpoint != "" && runtime.CgroupTaken(cgroups) {
		edit.CgroupsPath = runtime.OwnCgroupsPath(cgroups, r.ID)
		if spec, err = runtime.FinalSpec(config, edit); err != nil {
			return nil, err
		}
	}
	// Without systemd such a path is a directory's name, as odd as it looks.
	options.SystemdCgroup = options.SystemdCgroup || s.systemd && runtime.SystemdCgroupsPath(cgroups)

	q := &taskapi.CreateTaskRequest{
		ID: r.ID, Bundle: r.Bundle, Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
		Checkpoint: checkpoint, ParentCheckpoint: r.ParentCheckpoint,
	}
	for _, m := range r.Rootfs {
		q.Rootfs = append(q.Rootfs, strictMount(m))
	}
	// The stock service panics on any other type than runc's.
	if q.Options, err = typeurl.MarshalAnyToProto(options); err != nil {
		return nil, fmt.Errorf("runc options: %w", err)
	}
	root := process.RuncRoot
	if options.GetRoot() != "" {
		root = options.GetRoot()
	}
	root = filepath.Join(root, ns)
	c := &container{
		namespace: ns, restored: checkpoint != "", protected: protected, seesHost: seesHost(protected.Check(spec.OCI, bundle)),
		measured: &runtime.Measured{
			Bundle: r.Bundle, Private: private, State: filepath.Join(root, r.ID),
			FastStart:  runtime.CanStartByFifo(options.GetBinaryName(), spec.OCI),
			FastDelete: runtime.CanDeleteByHand(options.GetBinaryName(), options.GetSystemdCgroup(), spec.OCI),
		},
	}
	return &plan{namespace: ns, request: q, options: options, spec: spec, container: c, bundle: bundle, root: root}, nil
}

// checkpointDir checks a path that a client gave for a checkpoint; none is none.
func checkpointDir(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("checkpoint %q is not an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("checkpoint: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !st.IsDir() {
		return "", fmt.Errorf("checkpoint %s is not a directory: %w", path, errdefs.ErrInvalidArgument)
	}
	return path, nil
}

// seesHost says whether the agent can only have let this container pass because
// policy allows it the directories above Sealift's.
func seesHost(violations []runtime.Violation) bool {
	return slices.ContainsFunc(violations, func(v runtime.Violation) bool { return v.Code == runtime.CodeMountAbove })
}

// inspect looks at the mounts that init (pid) really got, before its first
// instruction. A restored container has none yet: 0.
func (c *container) inspect(pid int) error {
	if pid == 0 || c.seesHost {
		return nil
	}
	err := c.protected.Exposed(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		// Init has ended already, and with it whatever it could see.
		return nil
	}
	return err
}

// realBundle is the bundle directory without symbolic links: runc wants the root
// file system's path to have none. Its rootfs may not be one either.
func realBundle(dir, id string) (string, error) {
	if !filepath.IsAbs(dir) || filepath.Base(dir) != id {
		return "", fmt.Errorf("bundle %q is not the absolute path of a directory named %s: %w", dir, id, errdefs.ErrInvalidArgument)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", fmt.Errorf("bundle %s: %w: %w", dir, err, errdefs.ErrInvalidArgument)
	}
	bundle := filepath.Join(parent, id)
	if st, err := os.Lstat(filepath.Join(bundle, "rootfs")); err == nil && !st.IsDir() {
		return "", fmt.Errorf("%s is not a directory: %w", filepath.Join(bundle, "rootfs"), errdefs.ErrInvalidArgument)
	}
	return bundle, nil
}

func strictMount(m *types.Mount) *types.Mount {
	if m.Type != "overlay" {
		return m
	}
	return &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: runtime.OverlayOptions(m.Options)}
}

func cgroupsPath(s *runtime.Spec) string {
	if s.OCI.Linux == nil {
		return ""
	}
	return s.OCI.Linux.CgroupsPath
}

// launch asks the agent. Without an error the launch is committed.
func (s *service) launch(ctx context.Context, p *plan) error {
	if err := fault.Point("create.before-launch"); err != nil {
		return err
	}
	q := &nodev1.LaunchRequest{
		Namespace: p.namespace, Id: p.request.ID, Bundle: p.request.Bundle, Spec: p.spec.Bytes, Checkpoint: p.request.Checkpoint,
		RuntimeBinary: p.options.GetBinaryName(), RuntimeRoot: p.root, SystemdCgroup: p.options.GetSystemdCgroup(),
		ContainerdAddress: s.containerd,
	}
	for _, m := range p.request.Rootfs {
		q.Rootfs = append(q.Rootfs, &nodev1.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	resp, err := s.agent.Launch(ctx, q)
	if err != nil {
		return err
	}
	switch o := resp.GetOutcome().(type) {
	case *nodev1.LaunchResponse_Committed:
		if would := o.Committed.GetWouldRefuse(); len(would) > 0 {
			log.G(ctx).WithField("namespace", p.namespace).WithField("container", p.request.ID).WithField("seq", o.Committed.GetSeq()).
				Warn("started in audit mode; enforce would have refused it:" + node.FormatReasons(would))
		}
		return nil
	case *nodev1.LaunchResponse_Refused:
		return &node.RefusedError{Namespace: p.namespace, ID: p.request.ID, Refused: o.Refused}
	default:
		return errors.New("the agent's answer is neither committed nor refused\nhint: run sealiftd and the shim from one release")
	}
}

// create makes the container from the private bundle. On an error nothing of the
// container stays; the bundle is its caller's to remove.
func (s *service) create(ctx context.Context, p *plan) (*taskapi.CreateTaskResponse, error) {
	if err := fault.Point("create.after-launch"); err != nil {
		return nil, err
	}
	id, m := p.request.ID, p.container.measured
	if err := m.Private.Write(p.spec.Bytes); err != nil {
		return nil, err
	}
	s.monitor.Admit(m)
	resp, err := s.TTRPCTaskService.Create(ctx, p.request)
	if err == nil {
		if err = p.container.inspect(int(resp.GetPid())); err == nil {
			err = fault.Point("create.after-runc")
		}
		if err != nil {
			_, gone := s.TTRPCTaskService.Delete(context.WithoutCancel(ctx), &taskapi.DeleteRequest{ID: id})
			err = errors.Join(err, gone)
		}
	}
	if err != nil {
		return nil, err
	}
	m.SetPid(int(resp.GetPid()))
	return resp, nil
}
