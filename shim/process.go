package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	cruntime "github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/fault"
	"github.com/sealift/sealift/runtime"
)

// Start runs the first instruction of a container, once that is recorded, or a
// process that Exec has recorded. A container whose start could not be recorded
// is killed: it must not be startable by other means. A restored container has no
// process until it runs: its start is recorded before that, and again after it
// with init's pid.
func (s *service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	if r.ExecID != "" {
		return s.TTRPCTaskService.Start(ctx, r)
	}
	c := s.get(r.ID)
	if c == nil {
		return nil, notCreated()
	}
	if err := s.recordStart(ctx, r.ID, c); err != nil {
		if c.restored {
			// Nothing was restored yet, so there is nothing to kill.
			return nil, err
		}
		return nil, errors.Join(err, s.kill(ctx, r.ID))
	}
	resp, err := s.TTRPCTaskService.Start(ctx, r)
	if err != nil {
		return nil, err
	}
	if c.restored {
		c.measured.SetPid(int(resp.GetPid()))
		if err := c.inspect(int(resp.GetPid())); err != nil {
			return nil, errors.Join(errgrpc.ToGRPC(err), s.kill(ctx, r.ID))
		}
		// Only now does init have a pid, and the agent its cgroup to know it by. If
		// it has ended already there is nobody to know.
		if err := s.recordStart(ctx, r.ID, c); err != nil && unix.Kill(int(resp.GetPid()), 0) == nil {
			return nil, errors.Join(err, s.kill(ctx, r.ID))
		}
		s.adopt(ctx, r.ID, c, int(resp.GetPid()))
	}
	if err := fault.Point("start.after"); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.memory.started()
	return resp, nil
}

// kill ends a container that must not run; the client deletes it as it would
// any container that has stopped.
func (s *service) kill(ctx context.Context, id string) error {
	_, err := s.TTRPCTaskService.Kill(context.WithoutCancel(ctx), &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	return err
}

func (s *service) recordStart(ctx context.Context, id string, c *container) error {
	if err := fault.Point("start.before"); err != nil {
		return errgrpc.ToGRPC(err)
	}
	return s.record(ctx, &nodev1.ReportRequest{
		Id: id, Kind: nodev1.ReportKind_REPORT_KIND_STARTED, Pid: uint32(c.measured.Pid()), AtUnixNano: time.Now().UnixNano(),
	})
}

// Exec adds a process, once it is recorded.
func (s *service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	if s.get(r.ID) == nil {
		return nil, notCreated()
	}
	if err := s.record(ctx, &nodev1.ReportRequest{
		Id: r.ID, ExecId: r.ExecID, Kind: nodev1.ReportKind_REPORT_KIND_EXEC, Detail: r.Spec.GetValue(),
	}); err != nil {
		return nil, err
	}
	return s.TTRPCTaskService.Exec(ctx, r)
}

// Update changes a container's resources, once that is recorded.
func (s *service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	if s.get(r.ID) == nil {
		return nil, notCreated()
	}
	if err := s.record(ctx, &nodev1.ReportRequest{
		Id: r.ID, Kind: nodev1.ReportKind_REPORT_KIND_UPDATE, Detail: r.Resources.GetValue(),
	}); err != nil {
		return nil, err
	}
	return s.TTRPCTaskService.Update(ctx, r)
}

// Checkpoint writes a container's checkpoint, once that is recorded, and
// announces it, which the stock service does not.
func (s *service) Checkpoint(ctx context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	if s.get(r.ID) == nil {
		return nil, notCreated()
	}
	options, err := runtime.DecodeCheckpointOptions(r.Options)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	// containerd before 2.0 gives a directory of its own, whatever path the client
	// asked for, unless the runtime's name begins with io.containerd.runc.
	path := r.Path
	if own := options.GetImagePath(); own != "" {
		if !filepath.IsAbs(own) {
			return nil, errgrpc.ToGRPC(fmt.Errorf("checkpoint %q is not an absolute path: %w", own, errdefs.ErrInvalidArgument))
		}
		path = own
	}
	packed, err := typeurl.MarshalAnyToProto(options)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("checkpoint options: %w", err))
	}
	if err := s.record(ctx, &nodev1.ReportRequest{
		Id: r.ID, Kind: nodev1.ReportKind_REPORT_KIND_CHECKPOINT, Path: path, Detail: packed.GetValue(),
	}); err != nil {
		return nil, err
	}
	// The stock service knows only runc's own type.
	resp, err := s.TTRPCTaskService.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: r.ID, Path: path, Options: packed})
	if err != nil {
		return nil, err
	}
	if r.Path != "" && filepath.Clean(r.Path) != filepath.Clean(path) {
		// What containerd will store as an image is the same checkpoint.
		if err := os.CopyFS(r.Path, os.DirFS(path)); err != nil {
			return nil, errgrpc.ToGRPC(fmt.Errorf("checkpoint is in %s, its copy for containerd is not: %w", path, err))
		}
	}
	if err := s.publisher.Publish(ctx, cruntime.TaskCheckpointedEventTopic, &eventstypes.TaskCheckpointed{
		ContainerID: r.ID, Checkpoint: path,
	}); err != nil {
		log.G(ctx).WithError(err).WithField("container", r.ID).Error("checkpoint is not announced")
	}
	return resp, nil
}
