package shim

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
)

// taskV2 is the name under which containerd 1.7 calls the task API. Its messages
// are those of version 3 on the wire; only the package is named differently.
const taskV2 = "containerd.task.v2.Task"

func registerV2(server *ttrpc.Server, s taskapi.TTRPCTaskService) {
	server.RegisterService(taskV2, &ttrpc.ServiceDesc{Methods: methodsV2(s)})
}

func methodsV2(s taskapi.TTRPCTaskService) map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"State":      unary(s.State),
		"Create":     unary(s.Create),
		"Start":      unary(s.Start),
		"Delete":     unary(s.Delete),
		"Pids":       unary(s.Pids),
		"Pause":      unary(s.Pause),
		"Resume":     unary(s.Resume),
		"Checkpoint": unary(s.Checkpoint),
		"Kill":       unary(s.Kill),
		"Exec":       unary(s.Exec),
		"ResizePty":  unary(s.ResizePty),
		"CloseIO":    unary(s.CloseIO),
		"Update":     unary(s.Update),
		"Wait":       unary(s.Wait),
		"Stats":      unary(s.Stats),
		"Connect":    unary(s.Connect),
		"Shutdown":   unary(s.Shutdown),
	}
}

func unary[Q, R any](f func(context.Context, *Q) (R, error)) ttrpc.Method {
	return func(ctx context.Context, decode func(any) error) (any, error) {
		q := new(Q)
		if err := decode(q); err != nil {
			return nil, err
		}
		return f(ctx, q)
	}
}
