package runtime

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/containerd/errdefs"
	"github.com/containerd/go-runc"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features asks the OCI runtime binary (runc when empty) what it can do. The
// result is nil where the runtime has no such command; a runtime that is not
// installed is an error of class errdefs.ErrNotFound.
func Features(ctx context.Context, binary string) (*features.Features, error) {
	f, err := (&runc.Runc{Command: binary}).Features(ctx)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("OCI runtime: %w: %w\nhint: install runc, or name another with the option BinaryName", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, nil
	}
	return f, nil
}
