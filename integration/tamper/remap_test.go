package tamper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
	"github.com/sealift/sealift/measure/layer"
)

// notRemapped are the changes that a remapped layer has no place for: it holds
// what the layers show together, without file capabilities and hard links.
var notRemapped = []string{"content byte of a file that a later layer hides", "capability removed", "whiteout added", "whiteout removed", "opaque mark removed",
	"hard link broken", "unnamed parent's mode", "unnamed parent's owner", "unnamed parent's capability",
	// Where one entry alone has such a bit this is what containerd 1.7 makes.
	"setuid removed"}

// remappedOnly are changes that only a remapped layer can suffer.
var remappedOnly = []tamper.Change{
	{Name: "root of the host", Apply: owned("opt/plain", 0, 0), Path: "opt/plain", Kind: layer.KindOwner},
	{Name: "another user of the container", Apply: owned("opt/owned", 1000, 2000), Path: "opt/owned", Kind: layer.KindOwner},
	{Name: "capability put back", Apply: func(l []string) error {
		return errors.Join(os.Remove(l[0]+"/opt/capable"), os.WriteFile(l[0]+"/opt/capable", []byte("#!/bin/sh\n"), 0o755))
	}, Path: "opt/capable", Kind: layer.KindOwner},
	{Name: "what a lower layer hides", Apply: func(l []string) error {
		return os.WriteFile(l[0]+"/etc/bottom", []byte("only in the bottom layer\n"), 0o644)
	}, Path: "etc/bottom", Kind: layer.KindAdded},
	{Name: "whiteout in a file's place", Apply: func(l []string) error {
		return errors.Join(os.Remove(l[0]+"/etc/middle"), unix.Mknod(l[0]+"/etc/middle", unix.S_IFCHR, 0))
	}, Path: "etc/middle", Kind: layer.KindWhiteout},
	{Name: "the unnamed parent's mode", Apply: func(l []string) error { return os.Chmod(l[0]+"/unnamed", 0o777) }, Path: "unnamed", Kind: layer.KindMode},
	{Name: "overlay's mark of a file elsewhere", Apply: func(l []string) error {
		return unix.Setxattr(l[0]+"/opt/plain", "trusted.overlay.nlink", []byte("U+1"), 0)
	}, Path: "opt/plain", Kind: layer.KindOverlayXattr},
}

func owned(path string, uid, gid int) func([]string) error {
	return func(l []string) error { return os.Lchown(filepath.Join(l[0], path), uid, gid) }
}

const remapFlags = "--runtime " + node.Sealift + " --uidmap 0:1000:65536 --gidmap 0:2000:65536"

// mapping is remapFlags' user namespace, or another.
func mapping(uid, gid, size uint32) oci.SpecOpts {
	return oci.WithUserNamespace([]specs.LinuxIDMapping{{HostID: uid, Size: size}}, []specs.LinuxIDMapping{{HostID: gid, Size: size}})
}

// remappedStage runs a container with a user namespace, and returns the directory
// of the layer that containerd's client made for it and the snapshot's name.
func remappedStage(t *testing.T, s *tamper.Stage, ns string) (dir, parent string) {
	t.Helper()
	imported(t, s, ns)
	ctx := namespaces.WithNamespace(t.Context(), ns)
	out, err := s.Shell(ctx, fmt.Sprintf("ctr -n %s run %s %s first /bin/stat -c '%%n %%u:%%g' / /opt/setuid /opt/owned /unnamed", ns, remapFlags, tamper.Name))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/ 0:0", "/opt/setuid 0:0", "/opt/owned 65534:7", "/unnamed 0:0"} {
		if !slices.Contains(strings.Split(out, "\n"), want) {
			t.Errorf("the container sees %q, want %q", out, want)
		}
	}
	sn := s.Client.SnapshotService(overlayfs)
	info, err := sn.Stat(ctx, "first")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := sn.Mounts(ctx, "first")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range mounts[0].Options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return s.Inside(strings.Split(dirs, ":")[0]), info.Parent
		}
	}
	t.Fatalf("no lowerdir in %v", mounts)
	return "", ""
}

// onRemapped asks the agent for a container on the remapped snapshot.
func onRemapped(t *testing.T, s *tamper.Stage, ns, id, parent string, edit func(*nodev1.LaunchRequest), opts ...oci.SpecOpts) (*nodev1.LaunchResponse, *tamper.Record) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), ns)
	ctx, done, err := s.Client.WithLease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := done(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	if _, err := s.Client.SnapshotService(overlayfs).Prepare(ctx, id, parent); err != nil {
		t.Fatal(err)
	}
	img, err := s.Client.GetImage(ctx, tamper.Name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Client.NewContainer(ctx, id, containerd.WithSnapshotter(overlayfs), containerd.WithImage(img), containerd.WithSnapshot(id),
		containerd.WithRuntime(node.Sealift, nil), tamper.Spec(opts...))
	if err != nil {
		t.Fatal(err)
	}
	req, err := s.Request(ctx, ns, c)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(req)
	}
	resp, err := s.Launch(req)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Find(ns, id)
	if err != nil {
		t.Fatal(err)
	}
	return resp, r
}

// TestRemapped changes the layer that a remapped container's own stands on.
// containerd keeps it for every later container of the image and mapping.
func TestRemapped(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			s := tamper.TestStage(t, node.Options{Name: "remap", Line: line})
			const ns = "mapped"
			dir, parent := remappedStage(t, s, ns)
			ours := mapping(1000, 2000, 65536)
			bits := map[node.Line]string{node.Line17: "dropped", node.Line24: "kept"}[line]
			resp, r := onRemapped(t, s, ns, "untampered", parent, nil, ours)
			if resp.GetCommitted() == nil || r.Root.Class != "tree" || r.Root.Upper != "empty" || r.Root.Remap.How != "chown" || r.Root.Remap.SpecialBits != bits {
				t.Fatalf("untampered: %s, remapped by %+v", r, r.Root.Remap)
			}
			for name, c := range map[string]struct {
				code string
				edit func(*nodev1.LaunchRequest)
				spec []oci.SpecOpts
			}{
				"no user namespace":     {code: "layer-count"},
				"another mapping":       {code: "layer-content", spec: []oci.SpecOpts{mapping(5000, 2000, 65536)}},
				"an owner left out":     {code: "id-mapping", spec: []oci.SpecOpts{mapping(1000, 2000, 100)}},
				"a mapped mount of it":  {code: "id-mapping", spec: []oci.SpecOpts{ours}, edit: idMapped("uidmap=0:0:65536", "gidmap=0:0:65536")},
				"mapped twice":          {code: "layer-count", spec: []oci.SpecOpts{ours}, edit: idMapped("uidmap=0:1000:65536", "gidmap=0:2000:65536")},
				"half of a mapped one":  {code: "mount-option", spec: []oci.SpecOpts{ours}, edit: idMapped("uidmap=0:1000:65536")},
				"mapped, and no spaces": {code: "id-mapping", edit: idMapped("uidmap=0:1000:65536", "gidmap=0:2000:65536")},
			} {
				t.Run(name, func(t *testing.T) {
					resp, r := onRemapped(t, s, ns, strings.NewReplacer(" ", "-", ",", "").Replace(name), parent, c.edit, c.spec...)
					if resp.GetRefused() == nil || !hasCode(r.Reasons, c.code) {
						t.Errorf("the log says %s\nwanted a refusal with %s", r, c.code)
					}
				})
			}
			keep := func(verb string) {
				t.Helper()
				in := strings.TrimPrefix(dir, s.Inside("/"))
				script := map[string]string{"save": "cp -a /%[1]s /srv/saved", "restore": "rm -rf /%[1]s $(dirname /%[1]s)/outside; cp -a /srv/saved /%[1]s"}[verb]
				if _, err := s.Shell(t.Context(), fmt.Sprintf(script, in)); err != nil {
					t.Fatal(err)
				}
			}
			keep("save")
			for i, c := range append(slices.Clone(tamper.Changes), remappedOnly...) {
				if slices.Contains(notRemapped, c.Name) {
					continue
				}
				t.Run(c.Name, func(t *testing.T) {
					if err := c.Apply([]string{dir, dir, dir}); err != nil {
						t.Fatal(err)
					}
					resp, r := onRemapped(t, s, ns, fmt.Sprint("c", i), parent, nil, ours)
					if resp.GetRefused() == nil || !c.Among(r.Reasons) {
						t.Errorf("the log says %s\nwanted a refusal for %s of %q", r, c.Kind, c.Path)
					}
					keep("restore")
				})
			}
			if resp, r := onRemapped(t, s, ns, "put-back", parent, nil, ours); resp.GetCommitted() == nil {
				t.Errorf("put back: %s", r)
			}
		})
	}
}

func idMapped(options ...string) func(*nodev1.LaunchRequest) {
	return func(r *nodev1.LaunchRequest) { r.Rootfs[0].Options = append(r.Rootfs[0].Options, options...) }
}

// TestRemappedRuns shows what the change of a remapped layer is worth to whoever
// makes it, where nothing is refused: the next container runs it.
func TestRemappedRuns(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "remap-audit"})
	if err := s.Policy(t.Context(), "audit.yaml", auditPolicy(s, 0)); err != nil {
		t.Fatal(err)
	}
	for ns, runs := range map[string]bool{"audited": true, "enforced": false} {
		dir, _ := remappedStage(t, s, ns)
		if err := os.WriteFile(filepath.Join(dir, "opt/plain"), []byte("#!/bin/sh\necho evil\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := s.Shell(t.Context(), fmt.Sprintf("ctr -n %s run --rm %s %s next /opt/plain", ns, remapFlags, tamper.Name))
		if (err == nil && strings.Contains(out, "evil")) != runs {
			t.Errorf("%s: %s %v", ns, out, err)
		}
		r, ferr := s.Find(ns, "next")
		if ferr != nil {
			t.Fatal(ferr)
		}
		if reasons := append(r.Reasons, r.WouldRefuse...); !hasCode(reasons, "layer-content") || (r.Type == "launch") != runs {
			t.Errorf("%s: the log says %s", ns, r)
		}
		if !runs && !strings.Contains(err.Error(), "remapped snapshot") {
			t.Errorf("the hint does not say what to remove: %v", err)
		}
	}
}
