package shim

import (
	"context"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	cshim "github.com/containerd/containerd/v2/pkg/shim"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// observer passes events on to containerd and reports exits to the agent. It
// never waits for the agent.
type observer struct {
	cshim.Publisher
	namespace string
	reports   *reporter
}

var _ cshim.Publisher = (*observer)(nil)

// Publish sends an event to containerd.
func (o *observer) Publish(ctx context.Context, topic string, event events.Event) error {
	if e, ok := event.(*eventstypes.TaskExit); ok {
		r := &nodev1.ReportRequest{
			Namespace: o.namespace, Id: e.ContainerID, Kind: nodev1.ReportKind_REPORT_KIND_EXIT,
			Pid: e.Pid, ExitStatus: e.ExitStatus, AtUnixNano: e.ExitedAt.AsTime().UnixNano(),
		}
		if e.ID != e.ContainerID {
			r.Kind, r.ExecId = nodev1.ReportKind_REPORT_KIND_EXEC_EXIT, e.ID
		}
		o.reports.send(r)
	}
	return o.Publisher.Publish(ctx, topic, event)
}
