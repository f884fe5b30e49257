package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// Times are the phases of one container's life, in nanoseconds.
type Times struct {
	Runtime string `json:"runtime"`
	Create  int64  `json:"create"`
	Start   int64  `json:"start"`
	Delete  int64  `json:"delete"`
}

// cycle creates, starts, awaits and deletes n containers for each runtime, in
// turns, and prints a line of JSON for each. A runtime is NAME or NAME@PATH, the
// latter for a shim that is not found by its name.
func cycle(ctx context.Context, c *client.Client, s settings) error {
	image, err := c.GetImage(ctx, s.image)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for i := range s.n {
		for j, runtime := range strings.Split(s.runtime, ",") {
			t, err := once(ctx, c, image, s, fmt.Sprintf("cycle-%d-%d-%d", os.Getpid(), i, j), runtime)
			if err != nil {
				return fmt.Errorf("%s, cycle %d: %w", runtime, i, err)
			}
			if err := out.Encode(t); err != nil {
				return err
			}
		}
	}
	return nil
}

func once(ctx context.Context, c *client.Client, image client.Image, s settings, id, runtime string) (t Times, err error) {
	t.Runtime = runtime
	name, path, _ := strings.Cut(runtime, "@")
	args := s.args
	if len(args) == 0 {
		args = []string{"true"}
	}
	container, err := c.NewContainer(ctx, id,
		client.WithSnapshotter(s.snapshotter), client.WithImage(image), client.WithNewSnapshot(id, image),
		client.WithNewSpec(append([]oci.SpecOpts{oci.WithImageConfig(image), oci.WithProcessArgs(args...)}, s.specOptions()...)...),
		client.WithRuntime(name, nil))
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, container.Delete(ctx, client.WithSnapshotCleanup)) }()
	s.runtimePath = path
	began := time.Now()
	task, err := container.NewTask(ctx, cio.NullIO, s.taskOptions()...)
	if err != nil {
		return t, err
	}
	t.Create = time.Since(began).Nanoseconds()
	exited, err := task.Wait(ctx)
	if err != nil {
		return t, err
	}
	began = time.Now()
	if err := task.Start(ctx); err != nil {
		_, derr := task.Delete(ctx, client.WithProcessKill)
		return t, errors.Join(err, derr)
	}
	t.Start = time.Since(began).Nanoseconds()
	status := <-exited
	code, _, err := status.Result()
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d", code)
	}
	if err != nil {
		return t, err
	}
	began = time.Now()
	_, err = task.Delete(ctx)
	t.Delete = time.Since(began).Nanoseconds()
	return t, err
}
