package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// create makes and starts a container that stays, and prints its pid.
func create(ctx context.Context, c *client.Client, s settings) (err error) {
	image, err := c.GetImage(ctx, s.image)
	if err != nil {
		return err
	}
	options, err := s.runtimeOptions()
	if err != nil {
		return err
	}
	container, err := c.NewContainer(ctx, s.id,
		client.WithSnapshotter(s.snapshotter),
		client.WithImage(image),
		client.WithNewSnapshot(s.id, image),
		client.WithNewSpec(append([]oci.SpecOpts{oci.WithImageConfig(image)}, s.specOptions()...)...),
		client.WithRuntime(s.runtime, options),
	)
	if err != nil {
		return err
	}
	task, err := container.NewTask(ctx, cio.NullIO, s.taskOptions()...)
	if err != nil {
		return errors.Join(err, container.Delete(ctx, client.WithSnapshotCleanup))
	}
	if err := task.Start(ctx); err != nil {
		_, derr := task.Delete(ctx, client.WithProcessKill)
		return errors.Join(err, derr, container.Delete(ctx, client.WithSnapshotCleanup))
	}
	fmt.Println(task.Pid())
	return nil
}

func (s settings) taskOptions() []client.NewTaskOpts {
	if s.runtimePath == "" {
		return nil
	}
	return []client.NewTaskOpts{client.WithRuntimePath(s.runtimePath)}
}

func (s settings) specOptions() []oci.SpecOpts {
	return []oci.SpecOpts{
		func(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
			if len(s.args) > 0 {
				spec.Process.Args = s.args
			}
			if s.cgroups != "" {
				spec.Linux.CgroupsPath = s.cgroups
			}
			for _, a := range s.annotations {
				k, v, _ := strings.Cut(a, "=")
				if spec.Annotations == nil {
					spec.Annotations = map[string]string{}
				}
				spec.Annotations[k] = v
			}
			for _, m := range s.mounts {
				source, destination, _ := strings.Cut(m, ":")
				spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind", "ro"}})
			}
			for _, h := range s.hooks {
				if spec.Hooks == nil {
					spec.Hooks = &specs.Hooks{}
				}
				spec.Hooks.CreateRuntime = append(spec.Hooks.CreateRuntime, specs.Hook{Path: h, Args: []string{filepath.Base(h)}})
			}
			if s.memory > 0 {
				spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &s.memory}
			}
			return nil
		},
	}
}

// runtimeOptions makes each of the messages a client may send.
func (s settings) runtimeOptions() (any, error) {
	switch s.options {
	case "none":
		return nil, nil
	case "runc":
		return s.runcOptions()
	case "path":
		file := filepath.Join(os.TempDir(), s.id+".toml")
		if err := os.WriteFile(file, []byte(s.body), 0o644); err != nil {
			return nil, err
		}
		return &runtimeoptions.Options{TypeUrl: "io.containerd.sealift.v2.options", ConfigPath: file}, nil
	case "body":
		return &runtimeoptions.Options{TypeUrl: "io.containerd.sealift.v2.options", ConfigBody: []byte(s.body)}, nil
	}
	return nil, fmt.Errorf("unknown options %q", s.options)
}

func (s settings) runcOptions() (any, error) {
	o := &runcoptions.Options{}
	for _, kv := range strings.Split(s.body, ",") {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "":
		case "root":
			o.Root = v
		case "binary":
			o.BinaryName = v
		case "systemd":
			o.SystemdCgroup = v == "true"
		case "shim-cgroup":
			o.ShimCgroup = v
		case "no-pivot":
			o.NoPivotRoot = v == "true"
		default:
			return nil, fmt.Errorf("unknown runc option %q", k)
		}
	}
	return o, nil
}

// update changes a running container's memory limit.
func update(ctx context.Context, c *client.Client, s settings) error {
	container, err := c.LoadContainer(ctx, s.id)
	if err != nil {
		return err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return err
	}
	return task.Update(ctx, client.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &s.memory}}))
}
