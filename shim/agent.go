package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/version"
)

// agent is what the shim needs of the agent.
type agent interface {
	Launch(context.Context, *nodev1.LaunchRequest) (*nodev1.LaunchResponse, error)
	Report(context.Context, *nodev1.ReportRequest) (*nodev1.ReportResponse, error)
}

// nodeAgent is the agent behind its socket. Each call has a connection of its
// own, so that a shim outlives any number of agents.
type nodeAgent struct {
	// socket is node.Socket when empty.
	socket string
}

var _ agent = (*nodeAgent)(nil)

const (
	// pulse is how often a waiting call asks whether the agent still answers.
	pulse = 500 * time.Millisecond
	// reportLimit bounds a report, however alive the agent is: a TPM takes
	// milliseconds, and the agent itself gives up on one after 1.5 s.
	reportLimit = 10 * time.Second
)

// Launch asks for a container. Its decision may take as long as measuring an
// image takes; an agent that neither answers nor works is noticed within two seconds.
func (a *nodeAgent) Launch(ctx context.Context, r *nodev1.LaunchRequest) (*nodev1.LaunchResponse, error) {
	return call(ctx, a, func(ctx context.Context, c *node.Client) (*nodev1.LaunchResponse, error) {
		return c.Launch(ctx, r)
	})
}

// Report records one event; it returns when the record is in the TPM.
func (a *nodeAgent) Report(ctx context.Context, r *nodev1.ReportRequest) (*nodev1.ReportResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	return call(ctx, a, func(ctx context.Context, c *node.Client) (*nodev1.ReportResponse, error) {
		return c.Report(ctx, r)
	})
}

// errSilent is the cause of a call that was given up.
var errSilent = errors.New("the agent stopped answering")

func call[R any](ctx context.Context, a *nodeAgent, f func(context.Context, *node.Client) (R, error)) (R, error) {
	var none R
	c, err := node.Dial(ctx, a.socket, "shim", version.Version)
	if err != nil {
		return none, err
	}
	defer c.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watch(ctx, c, cancel)
	}()
	r, err := f(ctx, c)
	cause := context.Cause(ctx)
	cancel(nil)
	<-watched
	if err != nil && errors.Is(cause, errSilent) {
		return none, &node.UnavailableError{Socket: a.path(), Err: cause}
	}
	return r, err
}

// watch ends the call when the agent misses a pulse.
func watch(ctx context.Context, c *node.Client, cancel context.CancelCauseFunc) {
	t := time.NewTicker(pulse)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := c.Answering(ctx, func(ctx context.Context) error {
			_, err := c.Hello(ctx, &nodev1.HelloRequest{Version: node.Version, Client: "shim", Build: version.Version})
			return err
		})
		if err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("%w: %w", errSilent, err))
			return
		}
	}
}

func (a *nodeAgent) path() string {
	if a.socket == "" {
		return node.Socket
	}
	return a.socket
}
