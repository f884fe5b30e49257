package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
)

// A checkpoint goes to the path that a client names and a task is restored from
// there, also where containerd itself looks at such paths only for runtimes
// called io.containerd.runc.
func TestCheckpointPath(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			n := newNode(t, node.Options{Name: "path", Line: line})
			s := subject{n, byName, t}
			c, err := containerd.New(filepath.Join("/proc", fmt.Sprint(n.PID), "root/run/containerd/containerd.sock"), containerd.WithTimeout(patience))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), "default"), 10*time.Minute)
			defer cancel()
			img, err := c.GetImage(ctx, image.TinyName)
			if err != nil {
				t.Fatal(err)
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			// create makes a task of args, restored or not.
			create := func(id, args string, opts ...containerd.NewTaskOpts) containerd.Task {
				t.Helper()
				ct, err := c.NewContainer(ctx, id, containerd.WithSnapshotter("overlayfs"), containerd.WithImage(img), containerd.WithNewSnapshot(id, img), containerd.WithRuntime(node.Sealift, nil),
					containerd.WithNewSpec(oci.WithProcessArgs("/bin/sh", "-c", args), oci.WithDefaultPathEnv))
				must(err)
				task, err := ct.NewTask(ctx, cio.NullIO, opts...)
				must(err)
				return task
			}
			end := func(id string, task containerd.Task) {
				t.Helper()
				wait, err := task.Wait(ctx)
				must(err)
				must(task.Kill(ctx, unix.SIGKILL))
				<-wait
				_, err = task.Delete(ctx)
				must(err)
				s.sh("ctr container delete %s", id)
			}
			const forever = "while :; do sleep 1; done"
			first := create("first", forever)
			must(first.Start(ctx))
			im, err := first.Checkpoint(ctx, containerd.WithCheckpointImagePath("/srv/checkpoint"))
			must(err)
			end("first", first)
			s.sh("test -s /srv/checkpoint/inventory.img")

			// A start afresh would end at once.
			restored := func(id string, from containerd.NewTaskOpts) {
				t.Helper()
				task := create(id, "exit 3", from)
				must(task.Start(ctx))
				s.sh("sleep 1.2; ctr task ls | grep -q '%[1]s .*RUNNING'; ctr task exec --exec-id look %[1]s true; sealift log default/%[1]s | grep -q 'restored from a checkpoint'", id)
				end(id, task)
			}
			restored("from-path", containerd.WithRestoreImagePath("/srv/checkpoint"))
			if line == node.Line17 { // which made an image of it too
				restored("from-image", containerd.WithTaskCheckpoint(im))
			}
			for _, bad := range []string{"srv/checkpoint", "/srv/none", "/bin/true"} {
				ct, err := c.NewContainer(ctx, "bad", containerd.WithSnapshotter("overlayfs"), containerd.WithImage(img), containerd.WithNewSnapshot("bad", img), containerd.WithRuntime(node.Sealift, nil),
					containerd.WithNewSpec(oci.WithProcessArgs("true")))
				must(err)
				task, err := ct.NewTask(ctx, cio.NullIO, containerd.WithRestoreImagePath(bad))
				if err == nil {
					err = task.Start(ctx)
				}
				if err == nil {
					t.Errorf("restored from %s", bad)
				}
				s.sh("ctr task delete -f bad 2>/dev/null || true; ctr container delete bad")
			}
			nothingLeft(s)
			logHolds(s, "trusted")
		})
	}
}
