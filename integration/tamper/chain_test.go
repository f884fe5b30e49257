package tamper_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

// overlayMount is the one mount of a root, taken apart.
type overlayMount struct {
	lower       []string // bottom first
	upper, work string
	rest        []string
	other       []string // the layers of another image
	foreign     string   // another container's upper, with a file in it
}

func (o overlayMount) options() []string {
	lower := slices.Clone(o.lower)
	slices.Reverse(lower)
	return append([]string{"lowerdir=" + strings.Join(lower, ":"), "upperdir=" + o.upper, "workdir=" + o.work}, o.rest...)
}

func parseOverlay(options []string) (o overlayMount) {
	for _, opt := range options {
		key, val, _ := strings.Cut(opt, "=")
		switch key {
		case "lowerdir":
			o.lower = strings.Split(val, ":")
			slices.Reverse(o.lower)
		case "upperdir":
			o.upper = val
		case "workdir":
			o.work = val
		default:
			o.rest = append(o.rest, opt)
		}
	}
	return o
}

// chains are the changes of what is mounted, and how each is refused. They are
// made on the way from containerd to the shim, as a client of containerd can:
// it says itself what the root of a task is mounted from.
var chains = []struct {
	name, code string
	change     func(s *tamper.Stage, o *overlayMount) error
}{
	{"extra lower on top", "layer-count", func(_ *tamper.Stage, o *overlayMount) error { o.lower = append(o.lower, o.other[2]); return nil }},
	{"extra lower at the bottom", "layer-count", func(_ *tamper.Stage, o *overlayMount) error {
		o.lower = append([]string{o.other[2]}, o.lower...)
		return nil
	}},
	{"missing lower", "layer-count", func(_ *tamper.Stage, o *overlayMount) error { o.lower = o.lower[:2]; return nil }},
	{"lowers in another order", "layer-content", func(_ *tamper.Stage, o *overlayMount) error {
		o.lower[1], o.lower[2] = o.lower[2], o.lower[1]
		return nil
	}},
	{"another image's layer", "layer-content", func(_ *tamper.Stage, o *overlayMount) error { o.lower[2] = o.other[2]; return nil }},
	{"a lower twice", "layer-order", func(_ *tamper.Stage, o *overlayMount) error { o.lower[1] = o.lower[2]; return nil }},
	{"a lower by another name", "layer-count", func(s *tamper.Stage, o *overlayMount) error {
		alias := filepath.Dir(o.lower[2]) + "/alias"
		o.lower = append(o.lower, alias)
		return os.Symlink("fs", s.Inside(alias))
	}},
	{"another container's writable layer", "upper-not-empty", func(_ *tamper.Stage, o *overlayMount) error { o.upper = o.foreign; return nil }},
	{"a layer as the writable layer", "upper-not-empty", func(_ *tamper.Stage, o *overlayMount) error { o.upper = o.other[2]; return nil }},
	{"a file in the upper", "upper-not-empty", func(s *tamper.Stage, o *overlayMount) error {
		return os.WriteFile(s.Inside(o.upper)+"/evil", nil, 0o755)
	}},
	{"a whiteout in the upper", "upper-not-empty", func(s *tamper.Stage, o *overlayMount) error {
		return unix.Mknod(s.Inside(o.upper)+"/etc", unix.S_IFCHR, 0)
	}},
	{"mode of the upper's root", "root-attributes", func(s *tamper.Stage, o *overlayMount) error { return os.Chmod(s.Inside(o.upper), 0o777) }},
	{"owner of the upper's root", "root-attributes", func(s *tamper.Stage, o *overlayMount) error { return os.Chown(s.Inside(o.upper), 1000, 0) }},
	{"upper's root opaque", "root-attributes", func(s *tamper.Stage, o *overlayMount) error {
		return unix.Setxattr(s.Inside(o.upper), "trusted.overlay.opaque", []byte("y"), 0)
	}},
	{"upper's root redirected", "root-attributes", func(s *tamper.Stage, o *overlayMount) error {
		return unix.Setxattr(s.Inside(o.upper), "trusted.overlay.redirect", []byte("/etc"), 0)
	}},
	{"redirects followed", "mount-option", func(_ *tamper.Stage, o *overlayMount) error {
		o.rest = []string{"index=off", "redirect_dir=follow"}
		return nil
	}},
	{"index kept", "mount-option", func(_ *tamper.Stage, o *overlayMount) error { o.rest = []string{"index=on"}; return nil }},
	{"marks in user attributes", "mount-option", func(_ *tamper.Stage, o *overlayMount) error { o.rest = append(o.rest, "userxattr"); return nil }},
}

// TestMountedChain gives tasks other roots than their images'.
func TestMountedChain(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			s := tamper.TestStage(t, node.Options{Name: "chain", Line: line})
			ctx := namespaces.WithNamespace(t.Context(), "chain")
			img, foreign, other := chainGround(t, s)
			for i, c := range chains {
				t.Run(c.name, func(t *testing.T) {
					id := "c" + string(rune('a'+i))
					ctr, mounts, err := s.CreateApart(ctx, "chain", id, overlayfs, img)
					if err != nil {
						t.Fatal(err)
					}
					o := parseOverlay(mounts[0].Options)
					o.other, o.foreign = other, foreign
					if err := c.change(s, &o); err != nil {
						t.Fatal(err)
					}
					mounts[0].Options = o.options()
					task, err := ctr.NewTask(ctx, cio.NullIO, containerd.WithRootFS(mounts))
					if err == nil {
						t.Errorf("created as process %d", task.Pid())
						_, err = task.Delete(ctx, containerd.WithProcessKill)
						t.Fatal(err)
					}
					if !strings.Contains(err.Error(), "sealift refused chain/"+id) {
						t.Errorf("the error is %v", err)
					}
					if err := errors.Join(ctr.Delete(ctx), s.Client.SnapshotService(overlayfs).Remove(ctx, id)); err != nil {
						t.Errorf("not removable: %v", err)
					}
					if err := s.Left(ctx, "chain", id); err != nil {
						t.Error(err)
					}
					r, err := s.Find("chain", id)
					if err != nil {
						t.Fatal(err)
					}
					if r.Type != "refusal" || !hasCode(r.Reasons, c.code) {
						t.Errorf("the log says %s\nwanted a refusal with %s", r, c.code)
					}
				})
			}
		})
	}
}

func hasCode(reasons []tamper.Reason, code string) bool {
	return slices.ContainsFunc(reasons, func(r tamper.Reason) bool { return r.Code == code })
}

// chainGround imports both images and starts one container, which must pass;
// what it returns of others is for mixing up.
func chainGround(t *testing.T, s *tamper.Stage) (img containerd.Image, foreign string, other []string) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "chain")
	img, err := s.Import(ctx, "chain", overlayfs, s.Image)
	if err != nil {
		t.Fatal(err)
	}
	oimg, err := s.Import(ctx, "chain", overlayfs, s.Other)
	if err != nil {
		t.Fatal(err)
	}
	untampered(t, s, "chain", img)
	runTask(t, s, ctx, img, "passes")
	if _, err := s.Create(ctx, "chain", "other", overlayfs, oimg); err != nil {
		t.Fatal(err)
	}
	mounts, err := s.Client.SnapshotService(overlayfs).Mounts(ctx, "other")
	if err != nil {
		t.Fatal(err)
	}
	o := parseOverlay(mounts[0].Options)
	if err := os.WriteFile(s.Inside(o.upper)+"/work", []byte("of another container\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return img, o.upper, o.lower
}

// runTask is the case that must pass by the same way as those that must not.
func runTask(t *testing.T, s *tamper.Stage, ctx context.Context, img containerd.Image, id string) {
	t.Helper()
	c, mounts, err := s.CreateApart(ctx, "chain", id, overlayfs, img)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.NewTask(ctx, cio.NullIO, containerd.WithRootFS(mounts))
	if err != nil {
		t.Fatalf("untampered: %v", err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatalf("untampered: %v", err)
	}
	if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
		t.Fatal(err)
	}
}
