package tamper_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

const restricted = `apiVersion: sealift.dev/v1
kind: WorkloadPolicy
metadata: {name: %s}
spec:
  match: {namespaces: [%[1]s]}
  level: restricted
`

// What a spec brings along beside the image, as ctr, nerdctl and CRI do: by
// default it is recorded, at level restricted refused unless it is listed.
var brought = []struct {
	name, code string
	bring      oci.SpecOpts
	// allow is what a policy lists to let it through.
	allow    string
	recorded func(*tamper.Record) bool
}{
	{"a bind over a file of the image", "policy-mount",
		oci.WithMounts([]specs.Mount{{Type: "bind", Source: "/srv/brought", Destination: "/etc/motd", Options: []string{"rbind", "ro"}}}),
		"  mounts: {allow: [{destination: /etc/motd, source: /srv/brought}]}\n", bindOver("/etc/motd")},
	{"a bind through a link of another layer", "policy-mount",
		oci.WithMounts([]specs.Mount{{Type: "bind", Source: "/srv/brought", Destination: "/lib/app.so", Options: []string{"rbind", "ro"}}}),
		"  mounts: {allow: [{destination: /lib/app.so}]}\n", bindOver("/lib/app.so")},
	{"an overlay over a directory of the image", "policy-mount",
		oci.WithMounts([]specs.Mount{{Type: "overlay", Source: "overlay", Destination: "/usr/lib", Options: []string{"lowerdir=/srv/a:/srv/b"}}}),
		"  mounts: {allow: [{destination: /usr/lib}]}\n", bindOver("/usr/lib")},
	{"a hook", "policy-hook",
		func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true", Args: []string{"true"}}}}
			return nil
		},
		"  hooks: {allow: [{path: /bin/true, stages: [createRuntime], args: [\"true\"]}]}\n",
		func(r *tamper.Record) bool {
			return len(r.Hooks) == 1 && r.Hooks[0].Path == "/bin/true" && len(r.Hooks[0].SHA256) == 64
		}},
}

func bindOver(destination string) func(*tamper.Record) bool {
	return func(r *tamper.Record) bool {
		for _, b := range r.Binds {
			if b.Destination == destination {
				return b.CoversImage
			}
		}
		return false
	}
}

func TestBroughtAlong(t *testing.T) {
	policies := map[string]string{"strict.yaml": fmt.Sprintf(restricted, "strict")}
	for i, b := range brought {
		ns := fmt.Sprintf("listed-%d", i)
		policies[ns+".yaml"] = fmt.Sprintf(restricted, ns) + b.allow
	}
	s := tamper.TestStage(t, node.Options{Name: "brought", Policies: policies})
	if _, err := s.Shell(t.Context(), "echo brought > /srv/brought; mkdir -p /srv/a /srv/b"); err != nil {
		t.Fatal(err)
	}
	start := func(t *testing.T, ns, id string, opts ...oci.SpecOpts) error {
		t.Helper()
		ctx := namespaces.WithNamespace(t.Context(), ns)
		c, err := s.Create(ctx, ns, id, overlayfs, imported(t, s, ns), opts...)
		if err != nil {
			t.Fatal(err)
		}
		return task(ctx, c)
	}
	if err := start(t, "strict", "nothing"); err != nil {
		t.Fatalf("restricted, with nothing brought along: %v", err)
	}
	for i, b := range brought {
		t.Run(b.name, func(t *testing.T) {
			id, listed := fmt.Sprint("c", i), fmt.Sprintf("listed-%d", i)
			for _, ns := range []string{"default", listed} {
				if err := start(t, ns, id, b.bring); err != nil {
					t.Errorf("%s: %v", ns, err)
				}
				r, err := s.Find(ns, id)
				if err != nil {
					t.Fatal(err)
				}
				if r.Type != "launch" || !b.recorded(r) {
					t.Errorf("%s: not recorded: %s, binds %+v, hooks %+v", ns, r, r.Binds, r.Hooks)
				}
			}
			err := start(t, "strict", id, b.bring)
			if err == nil || !strings.Contains(err.Error(), "sealift refused strict/"+id) {
				t.Errorf("restricted: %v", err)
			}
			r, err := s.Find("strict", id)
			if err != nil {
				t.Fatal(err)
			}
			if r.Type != "refusal" || !hasCode(r.Reasons, b.code) {
				t.Errorf("restricted: the log says %s\nwanted %s", r, b.code)
			}
		})
	}
}
