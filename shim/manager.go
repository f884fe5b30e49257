package shim

import (
	"context"
	"errors"
	"io"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	cshim "github.com/containerd/containerd/v2/pkg/shim"
)

// manager satisfies containerd's shim library, which only serves for us: the
// actions have been dealt with before it runs.
type manager struct{}

var _ cshim.Shim = manager{}

var errOwnAction = errors.New("the shim library was asked for an action that Sealift answers itself")

func (manager) Name() string { return Name }

func (manager) Start(context.Context, *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	return nil, errOwnAction
}

func (manager) Stop(context.Context, string) (cshim.StopStatus, error) {
	return cshim.StopStatus{}, errOwnAction
}

func (manager) Info(context.Context, io.Reader) (*types.RuntimeInfo, error) {
	return nil, errOwnAction
}
