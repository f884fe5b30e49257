package launch

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sealift/sealift/agent/inventory"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/chain"
	"github.com/sealift/sealift/measure/gate"
	"github.com/sealift/sealift/measure/reference"
	"github.com/sealift/sealift/policy"
)

// Examiner gathers what the gate decides on. It is safe for concurrent use.
type Examiner struct {
	Daemons    map[string]*inventory.Daemon
	References *References
	Layers     *Layers
	Watch      *Watch
	// Policies returns the policies that hold now.
	Policies func() *policy.Set
	// Signed returns the signed references that are believed now.
	Signed func() *reference.Store
}

// Finding is all that is known of a would-be container.
type Finding struct {
	Facts     gate.Facts
	Effective policy.Effective
	Record    Record
	// Image is nil for a root without one.
	Image *inventory.Image
	Spec  *specs.Spec
	// Watched is what to remember once the container is committed; nil when it
	// cannot be known again.
	Watched *Watched

	chain *chain.Chain
	// userns is the mapping of the container's user namespace, owner what its root
	// directory's owner must be.
	userns *userns
	owner  chain.Owner
	// measured are the image's layers, once they were all found to be that.
	measured []*Measured
	signed   []reference.Found
	// clean says that the writable layer is empty, known, or the work of a
	// container that began so.
	clean bool
}

const (
	maxSpec   = 3 << 20
	maxLabels = 1024
)

// Examine never fails: what goes wrong is a finding like any other.
func (x *Examiner) Examine(ctx context.Context, req *nodev1.LaunchRequest) *Finding {
	f := &Finding{}
	f.Record.Runtime = req.GetRuntimeBinary()
	f.Record.Checkpoint = req.GetCheckpoint() != ""
	f.Effective = x.Policies().Evaluate(policy.Subject{Namespace: req.GetNamespace()})
	if !f.validate(req) {
		f.finish()
		return f
	}
	d := x.Daemons[req.GetContainerdAddress()]
	if d == nil {
		f.never("containerd-address", "containerd at "+req.GetContainerdAddress(), "this agent does not know it",
			"add its socket to containerd.addresses in /etc/sealift/config.toml")
		f.finish()
		return f
	}
	c, err := d.Container(ctx, req.GetNamespace(), req.GetId())
	if err != nil {
		f.content("containerd", "container "+req.GetId(), err)
		c = &inventory.Container{ID: req.GetId()}
	}
	watched := x.Watch.Get(req.GetNamespace(), req.GetId())
	if watched != nil && !watched.Created.Equal(c.Created) {
		watched = nil
	}
	f.image(ctx, d, req.GetNamespace(), c, watched)

	subject := policy.Subject{Namespace: req.GetNamespace(), Image: c.Image, Labels: c.Labels, Annotations: f.Spec.Annotations}
	if f.Image != nil {
		subject.ManifestDigest = f.Image.Manifest.String()
		if f.Image.Target != f.Image.Manifest {
			subject.IndexDigest = f.Image.Target.String()
		}
		for _, s := range x.Signed().Find(subject.ManifestDigest, time.Now()) {
			subject.SignedBy = append(subject.SignedBy, s.SignedBy...)
			f.signed = append(f.signed, s)
		}
	}
	f.Facts.Subject = subject
	f.Effective = x.Policies().Evaluate(subject)
	never, err := forbidden(f.Spec, req.GetBundle(), f.Effective.Level == policy.Privileged)
	if err != nil {
		f.never("invalid", "config.json", err.Error(), "")
	}
	f.Facts.Never = append(f.Facts.Never, never...)

	x.root(ctx, d, req, c, watched, f)
	f.brought()
	f.finish()
	return f
}

func (f *Finding) never(code, subject, message, hint string) {
	f.Facts.Never = append(f.Facts.Never, &nodev1.Reason{Code: code, Subject: subject, Message: message, Hint: hint})
}

// content records an error met while finding out about content.
func (f *Finding) content(code, subject string, err error) {
	var p *chain.Problem
	if errors.As(err, &p) {
		f.Facts.Content = append(f.Facts.Content, p.Reason())
		return
	}
	f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: code, Subject: subject, Message: err.Error()})
}

func (f *Finding) validate(req *nodev1.LaunchRequest) bool {
	for what, v := range map[string]string{"namespace": req.GetNamespace(), "container id": req.GetId()} {
		if err := identifiers.Validate(v); err != nil {
			f.never("invalid", fmt.Sprintf("%s %.80q", what, v), err.Error(), "")
			return false
		}
	}
	if n := len(req.GetSpec()); n > maxSpec {
		f.never("invalid", "config.json", fmt.Sprintf("%d bytes, at most %d are read", n, maxSpec), "")
		return false
	}
	s, err := parseSpec(req.GetSpec())
	if err != nil {
		f.never("invalid", "config.json", err.Error(), "")
		return false
	}
	if len(s.Annotations) > maxLabels || len(s.Mounts) > maxLabels {
		f.never("invalid", "config.json", fmt.Sprintf("%d annotations and %d mounts, at most %d each are read", len(s.Annotations), len(s.Mounts), maxLabels), "")
		return false
	}
	f.Spec = s
	return true
}

// image finds the image the container is said to be made of.
func (f *Finding) image(ctx context.Context, d *inventory.Daemon, ns string, c *inventory.Container, watched *Watched) {
	if c.Image == "" {
		return
	}
	f.Facts.HasImage = true
	var err error
	if watched != nil && watched.Manifest != "" {
		// A watched container keeps the image of its first start, whatever its
		// name stands for today.
		if f.Image, err = d.ByManifest(ctx, ns, digestOf(watched.Manifest)); err == nil {
			f.Image.Name = c.Image
		}
	}
	if f.Image == nil {
		f.Image, err = d.Image(ctx, ns, c.Image, c.Snapshotter, c.SnapshotKey)
	}
	if err != nil {
		f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: "image", Subject: "image " + c.Image, Message: err.Error(),
			Hint: "pull the image again"})
		return
	}
	f.Record.Image = &ImageRecord{Name: f.Image.Name, Manifest: f.Image.Manifest.String(), Config: f.Image.Config.String()}
}

// brought lists what the spec mounts over the image and which hooks it runs.
func (f *Finding) brought() {
	var err error
	if f.Record.Binds, err = binds(f.Spec, f.lowers()); err != nil {
		f.content("mount", "config.json", err)
	}
	if f.Record.Hooks, err = hooks(f.Spec); err != nil {
		f.content("hook", "config.json", err)
	}
	for _, b := range f.Record.Binds {
		if b.CoversImage {
			f.Facts.Mounts = append(f.Facts.Mounts, policy.BindMount{Destination: b.Destination, Source: resolved(b.Source), ReadOnly: !b.Writable})
		}
	}
	args := hookArgs(f.Spec)
	for i, h := range f.Record.Hooks {
		f.Facts.Hooks = append(f.Facts.Hooks, policy.Hook{Stage: h.Stage, Path: h.Path, Args: args[i], SHA256: h.SHA256})
	}
}

func (f *Finding) finish() {
	f.bound()
	hinted(f.Facts.Never)
	hinted(f.Facts.Content)
	f.Record.Policy = PolicyRecord{Digest: f.Effective.Digest(), Sources: f.Effective.Sources,
		Content: string(f.Effective.Content), Level: string(f.Effective.Level)}
}

func hookArgs(s *specs.Spec) [][]string {
	if s.Hooks == nil {
		return nil
	}
	var out [][]string
	for _, l := range [][]specs.Hook{s.Hooks.Prestart, s.Hooks.CreateRuntime, s.Hooks.CreateContainer, s.Hooks.StartContainer, s.Hooks.Poststart, s.Hooks.Poststop} { //nolint:staticcheck // runc still runs prestart
		for _, h := range l {
			out = append(out, h.Args)
		}
	}
	return out
}

// lowers are the layers' directories, topmost first.
func (f *Finding) lowers() []string {
	if f.chain == nil {
		return nil
	}
	var out []string
	for _, l := range slices.Backward(f.chain.Lowers) {
		if l.Mountpoint != "" {
			out = append(out, l.Mountpoint)
		} else if l.Dir != "" {
			out = append(out, l.Dir)
		}
	}
	return out
}

func resolved(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return filepath.Clean(path)
}
