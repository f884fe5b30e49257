package shim

import (
	"fmt"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	cshim "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/go-runc"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/sealift/sealift/runtime"
)

// register offers the task service to containerd's shim library. The stock
// plugin of the same name must not be linked in.
func register(v invocation) {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			events, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, fmt.Errorf("event publisher: %w", err)
			}
			publisher, ok := events.(cshim.Publisher)
			if !ok {
				return nil, fmt.Errorf("event publisher is a %T", events)
			}
			down, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, fmt.Errorf("shutdown service: %w", err)
			}
			shutdown, ok := down.(shutdown.Service)
			if !ok {
				return nil, fmt.Errorf("shutdown service is a %T", down)
			}
			a := &nodeAgent{}
			reports := newReporter(a)
			shutdown.RegisterCallback(reports.flush)
			observed := &observer{Publisher: publisher, namespace: v.namespace, reports: reports}
			inner, err := task.NewTaskService(ic.Context, observed, shutdown)
			if err != nil {
				return nil, fmt.Errorf("runc task service: %w", err)
			}
			// The stock service has just put the reaper here.
			monitor := runtime.NewMonitor(reaper.Default)
			runc.Monitor = monitor
			return &service{
				TTRPCTaskService: inner,
				agent:            a,
				reports:          reports,
				monitor:          monitor,
				publisher:        observed,
				ooms:             &ooms{ctx: ic.Context, publisher: observed},
				containerd:       v.address,
				systemd:          runtime.SystemdRuns(),
				containers:       map[string]*container{},
			}, nil
		},
	})
}
