package shim

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/oom"
	oomv1 "github.com/containerd/containerd/v2/pkg/oom/v1"
	oomv2 "github.com/containerd/containerd/v2/pkg/oom/v2"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"

	"github.com/sealift/sealift/runtime"
)

// The stock service looks for a container's cgroup when it creates it. A
// restored container has no process then, and so no cgroup: without this file
// it would have neither statistics nor OOM events.

// ooms watches the cgroups of restored containers. It costs nothing until there
// is one.
type ooms struct {
	ctx       context.Context
	publisher events.Publisher

	mu      sync.Mutex
	watcher oom.Watcher
}

// add watches the cgroup of the container id.
func (o *ooms) add(id string, cgroup any) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.watcher == nil {
		var err error
		if _, unified := cgroup.(*cgroup2.Manager); unified {
			o.watcher, err = oomv2.New(o.publisher)
		} else {
			o.watcher, err = oomv1.New(o.publisher)
		}
		if err != nil {
			return fmt.Errorf("OOM watcher: %w", err)
		}
		go o.watcher.Run(o.ctx)
	}
	if err := o.watcher.Add(id, cgroup); err != nil {
		return fmt.Errorf("OOM watcher: %w", err)
	}
	return nil
}

// adopt finds the cgroup of a container that was just restored. Without it the
// container runs all the same.
func (s *service) adopt(ctx context.Context, id string, c *container, pid int) {
	l := log.G(ctx).WithField("namespace", c.namespace).WithField("container", id)
	cg, err := runtime.ProcessCgroup(pid)
	if err != nil {
		l.WithError(err).Error("restored container has no statistics")
		return
	}
	s.mu.Lock()
	c.cgroup = cg
	s.mu.Unlock()
	if err := s.ooms.add(id, cg); err != nil {
		l.WithError(err).Error("restored container has no OOM events")
	}
}

// Stats returns the container's cgroup statistics.
func (s *service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	s.mu.Lock()
	var cgroup any
	if c := s.containers[r.ID]; c != nil {
		cgroup = c.cgroup
	}
	s.mu.Unlock()
	var (
		stats any
		err   error
	)
	switch cg := cgroup.(type) {
	case cgroup1.Cgroup:
		stats, err = cg.Stat(cgroup1.IgnoreNotExist)
	case *cgroup2.Manager:
		stats, err = cg.Stat()
	default:
		return s.TTRPCTaskService.Stats(ctx, r)
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("statistics of %s: %w", r.ID, err))
	}
	packed, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("statistics of %s: %w", r.ID, err))
	}
	return &taskapi.StatsResponse{Stats: packed}, nil
}
