package shim

import (
	"context"
	"errors"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/fault"
)

// Start runs the first instruction of a container, once that is recorded, or a
// process that Exec has recorded. A container whose start could not be recorded
// is killed: it must not be startable by other means.
func (s *service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	if r.ExecID != "" {
		return s.TTRPCTaskService.Start(ctx, r)
	}
	c := s.get(r.ID)
	if c == nil {
		return nil, notCreated()
	}
	if err := s.recordStart(ctx, r.ID, c); err != nil {
		_, killed := s.TTRPCTaskService.Kill(context.WithoutCancel(ctx), &taskapi.KillRequest{ID: r.ID, Signal: uint32(unix.SIGKILL), All: true})
		if c.restored {
			// Nothing was restored yet, so there is nothing to kill.
			killed = nil
		}
		return nil, errors.Join(err, killed)
	}
	resp, err := s.TTRPCTaskService.Start(ctx, r)
	if err != nil {
		return nil, err
	}
	c.measured.SetPid(int(resp.GetPid()))
	if err := fault.Point("start.after"); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return resp, nil
}

func (s *service) recordStart(ctx context.Context, id string, c *container) error {
	if err := fault.Point("start.before"); err != nil {
		return errgrpc.ToGRPC(err)
	}
	return s.record(ctx, &nodev1.ReportRequest{
		Id: id, Kind: nodev1.ReportKind_REPORT_KIND_STARTED, Pid: uint32(c.measured.Pid()), AtUnixNano: time.Now().UnixNano(),
	})
}
