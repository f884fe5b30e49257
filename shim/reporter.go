package shim

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
)

const (
	// maxPending bounds the reports that wait for an agent that is away.
	maxPending = 1024
	// firstRetry and lastRetry bound the pause between attempts.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	// flushLimit bounds what a shim's end waits for the agent.
	flushLimit = 2 * time.Second
)

// reporter sends what has happened already (exits, deletions) to the agent, in
// order and in the background, again and again while the agent is away. It has
// a goroutine only while something waits.
type reporter struct {
	agent agent

	mu      sync.Mutex
	pending []*nodev1.ReportRequest
	running bool
	// idle is closed when the goroutine ends.
	idle chan struct{}
	// hurry is closed to end pauses.
	hurry chan struct{}
}

func newReporter(a agent) *reporter {
	return &reporter{agent: a, hurry: make(chan struct{})}
}

// send takes a report and returns at once.
func (r *reporter) send(q *nodev1.ReportRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) == maxPending {
		dropped := r.pending[0]
		r.pending = r.pending[1:]
		log.L.WithField("container", dropped.GetId()).WithField("kind", dropped.GetKind()).
			Error("report dropped: too many wait for the agent")
	}
	r.pending = append(r.pending, q)
	if !r.running {
		r.running = true
		r.idle = make(chan struct{})
		go r.run(r.idle)
	}
}

func (r *reporter) run(idle chan struct{}) {
	defer close(idle)
	pause := firstRetry
	for {
		r.mu.Lock()
		if len(r.pending) == 0 {
			r.running = false
			r.mu.Unlock()
			return
		}
		q := r.pending[0]
		r.mu.Unlock()

		_, err := r.agent.Report(context.Background(), q)
		if err != nil && temporary(err) {
			log.L.WithError(err).WithField("container", q.GetId()).WithField("kind", q.GetKind()).Debug("report put off")
			select {
			case <-time.After(pause):
			case <-r.hurry:
				// The shim ends: one attempt was enough.
				return
			}
			pause = min(2*pause, lastRetry)
			continue
		}
		if err != nil {
			log.L.WithError(err).WithField("container", q.GetId()).WithField("kind", q.GetKind()).Error("report refused")
		}
		pause = firstRetry
		r.mu.Lock()
		// send may have dropped q meanwhile.
		if len(r.pending) > 0 && r.pending[0] == q {
			r.pending = r.pending[1:]
		}
		r.mu.Unlock()
	}
}

// temporary says whether a report is worth another attempt: the agent was away
// or could not write, rather than not wanting it.
func temporary(err error) bool {
	var away *node.UnavailableError
	if errors.As(err, &away) {
		return true
	}
	err = errgrpc.ToNative(err)
	for _, final := range []func(error) bool{
		errdefs.IsInvalidArgument, errdefs.IsNotFound, errdefs.IsFailedPrecondition, errdefs.IsPermissionDenied, errdefs.IsNotImplemented,
	} {
		if final(err) {
			return false
		}
	}
	return true
}

// flush waits for the pending reports, two seconds at most. It is called once,
// when the shim ends.
func (r *reporter) flush(ctx context.Context) error {
	r.mu.Lock()
	idle, running := r.idle, r.running
	r.mu.Unlock()
	if !running {
		return nil
	}
	close(r.hurry)
	ctx, cancel := context.WithTimeout(ctx, flushLimit)
	defer cancel()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	r.mu.Lock()
	left := len(r.pending)
	r.mu.Unlock()
	if left > 0 {
		log.L.WithField("reports", left).Error("shim ends before the agent took all reports")
	}
	return nil
}
