package shim

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/sealift/sealift/api/node"
)

// undecided says whether a launch that failed may have been committed all the
// same: it was sent, and its answer is missing.
func undecided(err error) bool {
	var refused *node.RefusedError
	var away *node.UnavailableError
	return !errors.As(err, &refused) && (!errors.As(err, &away) || errors.Is(err, errSilent))
}

// refusal is the answer to containerd when the agent did not commit: its class
// says whether the agent refused or could not be asked.
func refusal(namespace, id string, err error) error {
	var refused *node.RefusedError
	if errors.As(err, &refused) {
		// containerd's client puts the class behind the text, where it would read as
		// a part of the hint.
		return errgrpc.ToGRPCf(errdefs.ErrPermissionDenied, "%s\nno container was created", refused.Error())
	}
	var away *node.UnavailableError
	switch native := errgrpc.ToNative(err); {
	case errors.As(err, &away):
	case errdefs.IsPermissionDenied(native), errdefs.IsInvalidArgument(native), errdefs.IsNotFound(native), errdefs.IsFailedPrecondition(native), errdefs.IsResourceExhausted(native):
		return errgrpc.ToGRPC(fmt.Errorf("sealift refused %s/%s: %w", namespace, id, native))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errgrpc.ToGRPC(fmt.Errorf("sealift refused %s/%s: %w", namespace, id, err))
	}
	return errgrpc.ToGRPCf(errdefs.ErrUnavailable, "sealift refused %s/%s: %v\nno container was created", namespace, id, errgrpc.ToNative(err))
}
