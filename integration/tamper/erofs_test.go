package tamper_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
	"github.com/sealift/sealift/measure/layer"
)

// packed is one namespace's image as files, and a container of it that the
// agent is asked for, its layers mounted by hand.
type packed struct {
	ctx   context.Context
	s     *tamper.Stage
	ns    string
	img   containerd.Image
	files *tamper.Files
	req   *nodev1.LaunchRequest
}

func erofsStage(t *testing.T, name string) *tamper.Stage {
	t.Helper()
	return tamper.TestStage(t, node.Options{Name: name, Line: node.Line24, Containerd: tamper.ErofsConfig, Config: "[measure]\nbackground = false\n[log]\nquota = 67108864\n"})
}

func newPacked(t *testing.T, s *tamper.Stage, ns string) *packed {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), ns)
	img, err := s.Import(ctx, ns, tamper.Erofs, s.Image)
	if err != nil {
		t.Fatal(err)
	}
	p := &packed{ctx: ctx, s: s, ns: ns, img: img}
	if p.files, err = s.Files(ctx, ns, s.Image); err != nil {
		t.Fatal(err)
	}
	c, err := s.Create(ctx, ns, "c", tamper.Erofs, img)
	if err != nil {
		t.Fatal(err)
	}
	if p.req, err = s.Request(ctx, ns, c); err != nil {
		t.Fatal(err)
	}
	// What containerd would hand to the shim: the last mount, with the lower
	// directories that it put the others on.
	m := p.req.Rootfs[len(p.req.Rootfs)-1]
	lower := p.files.Mounted()
	slices.Reverse(lower)
	options := []string{"lowerdir=" + strings.Join(lower, ":"), "index=off", "redirect_dir=nofollow", "metacopy=off"}
	for _, o := range m.GetOptions() {
		if strings.HasPrefix(o, "upperdir=") || strings.HasPrefix(o, "workdir=") {
			options = append(options, o)
		}
	}
	p.req.Rootfs = []*nodev1.Mount{{Type: "overlay", Source: "overlay", Options: options}}
	return p
}

// ask has the agent judge what is mounted now.
func (p *packed) ask(t *testing.T) *nodev1.LaunchResponse {
	t.Helper()
	if err := p.s.Forget(p.ns, "c"); err != nil {
		t.Fatal(err)
	}
	resp, err := p.s.Launch(p.req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// mountedAsk mounts what is there and asks. Files that the kernel does not take
// give no answer.
func (p *packed) mountedAsk(t *testing.T) *nodev1.LaunchResponse {
	t.Helper()
	if err := p.files.Mount(""); err != nil {
		return nil
	}
	defer p.unmount(t)
	return p.ask(t)
}

func (p *packed) unmount(t *testing.T) {
	t.Helper()
	if err := p.files.Unmount(); err != nil {
		t.Fatal(err)
	}
}

func (p *packed) restore(t *testing.T) {
	t.Helper()
	if err := p.files.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// bind measures the original files, so that they are bound.
func (p *packed) bind(t *testing.T) {
	t.Helper()
	if resp := p.mountedAsk(t); resp.GetCommitted() == nil || len(resp.GetCommitted().GetWouldRefuse()) > 0 {
		t.Fatalf("untampered: answer %v", resp)
	}
	r, err := p.s.Find(p.ns, "c")
	if err != nil {
		t.Fatal(err)
	}
	if r.Type != "launch" || r.Root.Class != "blob" {
		t.Fatalf("untampered: the log says %s, wanted a launch of class blob", r)
	}
}

func (p *packed) run(t *testing.T, id string) (string, error) {
	t.Helper()
	return p.s.Run(t.Context(), p.ns, id, []string{"--snapshotter", tamper.Erofs}, "/bin/cat", "/etc/motd")
}

// notPacked are the changes of the fixed list that are none in an image: a link
// from elsewhere, and the mode that the packer itself gives unnamed directories.
var notPacked = []string{"hard link to outside", "unnamed parent's mode"}

// TestChangedImageFile makes the changes of the fixed list in what the erofs
// snapshotter unpacked, by packing the files anew, before they were ever measured
// and after a start bound them.
func TestChangedImageFile(t *testing.T) {
	s := erofsStage(t, "erofs")
	if err := s.Policy(t.Context(), "audit.yaml", auditPolicy(s, 0)); err != nil {
		t.Fatal(err)
	}
	bound, audited := newPacked(t, s, "bound"), newPacked(t, s, "audited")
	if out, err := bound.run(t, "untampered"); err != nil || out != "top\n" {
		t.Fatalf("untampered: %q %v", out, err)
	}
	changes := append(slices.Clone(tamper.Changes), tamper.Change{Name: "unnamed parent's sticky bit", Path: "unnamed", Kind: layer.KindImplied,
		Apply: func(l []string) error { return unix.Chmod(l[2]+"/unnamed", 0o1777) }})
	for i, c := range changes {
		if slices.Contains(notPacked, c.Name) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			bound.restore(t)
			bound.bind(t)
			if err := bound.files.Repack(t.Context(), c.Apply); err != nil {
				t.Fatal(err)
			}
			id := fmt.Sprint("c", i)
			out, err := bound.run(t, id)
			if err == nil {
				t.Fatal("started")
			}
			if text := out + err.Error(); !c.Tells(text) {
				t.Errorf("the error does not name %s of %q: %s", c.Kind, c.Path, text)
			}
			if err := s.Left(t.Context(), "bound", id); err != nil {
				t.Error(err)
			}
			recorded(t, s, "bound", id, "refusal", c)

			if err := audited.files.Repack(t.Context(), c.Apply); err != nil {
				t.Fatal(err)
			}
			if resp := audited.mountedAsk(t); len(resp.GetCommitted().GetWouldRefuse()) == 0 {
				t.Errorf("answer %v, wanted committed with what would have been refused", resp)
			}
			recorded(t, s, "audited", "c", "launch", c)
		})
	}
	// Packed anew and nothing changed: another file, the same layer.
	if err := bound.files.Repack(t.Context(), func([]string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if out, err := bound.run(t, "repacked"); err != nil || out != "top\n" {
		t.Errorf("repacked: %q %v", out, err)
	}
}
