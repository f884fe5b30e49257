package tamper_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

func TestMain(m *testing.M) {
	host.Reexec()
	os.Exit(m.Run())
}

const overlayfs = "overlayfs"

// auditPolicy looks at one image in the namespaces audit-0, audit-1, ...
func auditPolicy(s *tamper.Stage, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: sealift.dev/v1\nkind: WorkloadPolicy\nmetadata: {name: audited}\nspec:\n  match:\n    images: [{digest: %q}]\n    namespaces: [audited", s.Image.Manifest)
	for i := range n {
		fmt.Fprintf(&b, ", audit-%d", i)
	}
	b.WriteString("]\n  content: audit\n")
	return b.String()
}

// TestChangedLayer makes every change of the fixed list before its layer was
// ever measured and after it was bound by a start; enforce refuses and audit
// records.
func TestChangedLayer(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			// Without measuring in the background "before the first measuring" is
			// what it says.
			s := tamper.TestStage(t, node.Options{Name: "tamper", Line: line, Config: "[measure]\nbackground = false\n"})
			if err := s.Policy(t.Context(), "audit.yaml", auditPolicy(s, len(tamper.Changes))); err != nil {
				t.Fatal(err)
			}
			for i, c := range tamper.Changes {
				t.Run(c.Name, func(t *testing.T) {
					t.Run("bound", func(t *testing.T) {
						t.Parallel()
						boundThenChanged(t, s, fmt.Sprint("bound-", i), c)
					})
					t.Run("audit", func(t *testing.T) {
						t.Parallel()
						changedUnderAudit(t, s, fmt.Sprint("audit-", i), c, i%8 == 0)
					})
				})
			}
		})
	}
}

// boundThenChanged: it starts, it is changed, it does not start. Asked again, the
// agent has no binding left and finds the change by measuring.
func boundThenChanged(t *testing.T, s *tamper.Stage, ns string, c tamper.Change) {
	ctx := t.Context()
	img := imported(t, s, ns)
	untampered(t, s, ns, img)
	change(t, s, ns, c)

	out, err := s.Run(ctx, ns, "c", nil, "/bin/true")
	if err == nil {
		t.Fatal("started")
	}
	if text := out + err.Error(); !c.Tells(text) {
		t.Errorf("the error does not name %s of %q: %s", c.Kind, c.Path, text)
	}
	if err := s.Left(ctx, ns, "c"); err != nil {
		t.Error(err)
	}
	recorded(t, s, ns, "c", "refusal", c)

	if resp := launched(t, s, ns, "again", img); resp.GetRefused() == nil {
		t.Error("the second attempt is let through")
	}
	recorded(t, s, ns, "again", "refusal", c)
}

// changedUnderAudit: what was never measured is changed, and starts on the
// record.
func changedUnderAudit(t *testing.T, s *tamper.Stage, ns string, c tamper.Change, run bool) {
	img := imported(t, s, ns)
	change(t, s, ns, c)
	if resp := launched(t, s, ns, "c", img); len(resp.GetCommitted().GetWouldRefuse()) == 0 {
		t.Errorf("answer %v, wanted committed with what would have been refused", resp)
	}
	recorded(t, s, ns, "c", "launch", c)
	if !run {
		return
	}
	if out, err := s.Run(t.Context(), ns, "run", nil, "/bin/true"); err != nil {
		t.Errorf("does not start: %s %v", out, err)
	}
	recorded(t, s, ns, "run", "launch", c)
}

func imported(t *testing.T, s *tamper.Stage, ns string) containerd.Image {
	t.Helper()
	img, err := s.Import(t.Context(), ns, overlayfs, s.Image)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func change(t *testing.T, s *tamper.Stage, ns string, c tamper.Change) {
	t.Helper()
	layers, err := s.Layers(t.Context(), ns, overlayfs, s.Image)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(layers); err != nil {
		t.Fatal(err)
	}
}

// launched asks the agent as a shim does.
func launched(t *testing.T, s *tamper.Stage, ns, id string, img containerd.Image) *nodev1.LaunchResponse {
	t.Helper()
	c, err := s.Create(t.Context(), ns, id, overlayfs, img)
	if err != nil {
		t.Fatal(err)
	}
	req, err := s.Request(t.Context(), ns, c)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Launch(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// untampered is the case that must pass, and binds.
func untampered(t *testing.T, s *tamper.Stage, ns string, img containerd.Image) {
	t.Helper()
	resp := launched(t, s, ns, "untampered", img)
	if c := resp.GetCommitted(); c == nil || len(c.GetWouldRefuse()) > 0 {
		t.Fatalf("untampered: answer %v", resp)
	}
	r, err := s.Find(ns, "untampered")
	if err != nil {
		t.Fatal(err)
	}
	if r.Type != "launch" || r.Root.Class != "tree" {
		t.Fatalf("untampered: the log says %s, wanted a launch of class tree", r)
	}
}

func recorded(t *testing.T, s *tamper.Stage, ns, id, what string, c tamper.Change) {
	t.Helper()
	r, err := s.Find(ns, id)
	if err != nil {
		t.Fatal(err)
	}
	reasons, none := r.Reasons, r.WouldRefuse
	if what == "launch" {
		reasons, none = none, reasons
	}
	if r.Type != what || !c.Among(reasons) || len(none) > 0 {
		t.Errorf("the log says %s\nwanted a %s for %s of %q", r, what, c.Kind, c.Path)
	}
}
