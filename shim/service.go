package shim

import (
	"context"
	"fmt"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	cshim "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/runtime"
)

// service is containerd's runc task service with a gate before everything that
// brings code into a container.
type service struct {
	taskapi.TTRPCTaskService

	agent     agent
	reports   *reporter
	monitor   *runtime.Monitor
	publisher cshim.Publisher
	ooms      *ooms
	memory    memory
	// containerd is the address of its gRPC socket.
	containerd string
	// systemd says whether systemd can be asked for cgroups.
	systemd bool
	// bundles is where private bundles lie, runtime.Bundles when empty.
	bundles string

	mu         sync.Mutex
	containers map[string]*container
}

// container is what the decorator knows of one container.
type container struct {
	measured  *runtime.Measured
	namespace string
	restored  bool
	// protected is what it must not see; seesHost exempts it.
	protected runtime.Protected
	seesHost  bool
	// created is set when Create has succeeded.
	created bool
	// cgroup is set for restored containers only, see restored.go.
	cgroup any
}

var (
	_ taskapi.TTRPCTaskService = (*service)(nil)
	_ cshim.TTRPCService       = (*service)(nil)

	_ cshim.TTRPCServerUnaryOptioner = (*service)(nil)
)

// RegisterTTRPC serves the task API under both of its names.
func (s *service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	registerV2(server, s)
	return nil
}

// get returns a container that Create has finished, or nil.
func (s *service) get(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil && c.created {
		return c
	}
	return nil
}

// reserve takes an id for a container that is about to be created.
func (s *service) reserve(id string, c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] != nil {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.containers[id] = c
	return nil
}

func (s *service) created(c *container) {
	s.mu.Lock()
	c.created = true
	s.mu.Unlock()
}

func (s *service) drop(id string) {
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
}

// record has the agent record what is about to happen to a container. Its error
// means that it must not happen.
func (s *service) record(ctx context.Context, r *nodev1.ReportRequest) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return errgrpc.ToGRPC(err)
	}
	r.Namespace = ns
	if _, err := s.agent.Report(ctx, r); err != nil {
		return refusal(r.GetNamespace(), r.GetId(), err)
	}
	return nil
}

// Delete deletes a process; with the init process goes what Create made.
func (s *service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	resp, err := s.TTRPCTaskService.Delete(ctx, r)
	if err != nil || r.ExecID != "" {
		return resp, err
	}
	c := s.get(r.ID)
	if c == nil {
		return resp, nil
	}
	s.forget(r.ID, c)
	s.reports.send(&nodev1.ReportRequest{
		Namespace: c.namespace, Id: r.ID, Kind: nodev1.ReportKind_REPORT_KIND_DELETED, Pid: resp.GetPid(),
		ExitStatus: resp.GetExitStatus(), AtUnixNano: resp.GetExitedAt().AsTime().UnixNano(),
	})
	return resp, nil
}

// forget takes back what Create did for a container that is gone.
func (s *service) forget(id string, c *container) {
	s.drop(id)
	s.monitor.Forget(c.measured.Bundle)
	if err := c.measured.Private.Remove(); err != nil {
		log.L.WithError(err).WithField("container", id).Error("private bundle stays behind")
	}
}

func notCreated() error {
	return errgrpc.ToGRPCf(errdefs.ErrNotFound, "container not created")
}
