package hostile_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

// TestRestoredConfigChanged changes config.json in containerd's bundle at every
// named point of a restore, so that it has a hook, which runc would run as the
// host's root. The hook first runs with the stock runtime.
func TestRestoredConfigChanged(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			s := tamper.TestStage(t, node.Options{Name: "restore", Line: line, Binaries: made.Faults})
			ctx := namespaces.WithNamespace(t.Context(), "default")
			if _, err := s.Import(ctx, "default", overlayfs, s.Image); err != nil {
				t.Fatal(err)
			}
			stock, ours := dumped(t, s, "stock", node.Stock), dumped(t, s, "ours", node.SealiftPath)

			t.Run("attack", func(t *testing.T) {
				hooked := restoredWith(t, s, ctx, stock, "attack", func(begin func() error, change func() error) error {
					return errors.Join(begin(), change())
				}, nil)
				if !hooked {
					t.Error("the hook does not run with the stock runtime: this test shows nothing")
				}
			})
			t.Run("between create and start", func(t *testing.T) {
				if restoredWith(t, s, ctx, ours, "between", func(begin, change func() error) error { return errors.Join(begin(), change()) }, nil) {
					t.Error("the hook ran")
				}
			})
			at := func(point string) func(begin, change func() error) error {
				return func(begin, change func() error) error { return meanwhile(s, point, begin, change) }
			}
			for _, point := range []string{"create.before-launch", "launch.received", "launch.measured", "launch.before-reply", "create.after-launch", "create.after-runc"} {
				t.Run(point, func(t *testing.T) {
					if restoredWith(t, s, ctx, ours, "at-"+point, at(point), nil) {
						t.Error("the hook ran")
					}
				})
			}
			for _, point := range []string{"start.before", "start.after"} {
				t.Run(point, func(t *testing.T) {
					if restoredWith(t, s, ctx, ours, "at-"+point, nil, at(point)) {
						t.Error("the hook ran")
					}
				})
			}
		})
	}
}

// dump is a script that runs a container, dumps it into an image once it is the
// program it was asked for, and takes it away when it has ended.
func dump(id, flags string) string {
	return "ctr run -d " + flags + " " + tamper.Name + " " + id + ` /bin/busybox sh -c 'while :; do /bin/busybox sleep 1; done' </dev/null >/dev/null 2>&1
until pgrep -f '^/bin/busybox sh -c while'; do sleep 0.05; done
ctr container checkpoint --rw --image --task ` + id + ` checkpoint/` + id + `
ctr task kill -s KILL ` + id + ` || true
while ctr task ls | grep '^` + id + ` .*RUNNING'; do sleep 0.05; done
ctr task delete ` + id + ` || true; ctr container delete ` + id
}

// dumped makes a container, dumps it, and returns the checkpoint.
func dumped(t *testing.T, s *tamper.Stage, id, runtime string) containerd.Image {
	t.Helper()
	if _, err := s.Shell(patient(t), dump(id, "--runtime "+runtime)); err != nil {
		t.Fatal(err)
	}
	img, err := s.Client.GetImage(namespaces.WithNamespace(t.Context(), "default"), "checkpoint/"+id)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// restoredWith restores a container while its configuration is changed, at its
// creation or at its start, and says whether the changed one's hook ran.
func restoredWith(t *testing.T, s *tamper.Stage, ctx context.Context, checkpoint containerd.Image, id string, create, start func(begin, change func() error) error) bool {
	t.Helper()
	mark := "/srv/hooked-" + id
	change := func() error {
		return changeConfig(t, s, id, `jq '.hooks.prestart = [{"path": "/bin/touch", "args": ["touch", "`+mark+`"]}]'`)
	}
	plainly := func(begin, _ func() error) error { return begin() }
	if create == nil {
		create = plainly
	}
	if start == nil {
		start = plainly
	}
	c, err := s.Client.Restore(ctx, id, checkpoint, containerd.WithRestoreImage, containerd.WithRestoreSpec, containerd.WithRestoreRuntime, containerd.WithRestoreRW)
	if err != nil {
		t.Fatal(err)
	}
	var task containerd.Task
	err = create(func() (err error) {
		task, err = c.NewTask(ctx, cio.NullIO, containerd.WithTaskCheckpoint(checkpoint))
		return err
	}, change)
	if err != nil {
		t.Fatal(err)
	}
	if err := start(func() error { return task.Start(ctx) }, change); err != nil {
		t.Fatal(err)
	}
	if st, err := task.Status(ctx); err != nil || st.Status != containerd.Running {
		t.Errorf("it is %s: %v", st.Status, err)
	}
	if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
		t.Error(err)
	}
	if err := s.Left(t.Context(), "default", id); err != nil {
		t.Error(err)
	}
	_, err = os.Stat(s.Inside(mark))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}
