package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Effective is what holds for one launch.
type Effective struct {
	// Content is the mode of the content checks: layers equal to their
	// references, Images, AcceptBinding, RootfsWithoutImage.
	Content Mode
	Level   Level
	// MinimumBinding is the loosest class accepted, AcceptBinding every class
	// that is at least as firm, firmest first.
	MinimumBinding Binding
	AcceptBinding  []string
	// RootfsWithoutImage says whether a rootfs that no image stands behind may
	// start.
	RootfsWithoutImage Permission
	// Images are the allow lists of the matching policies: an image must be on
	// each. None: every image is allowed.
	Images []ImageAllow
	// Restricted are the lists of the matching policies that say restricted: a
	// bind or hook must be on each. It is empty unless Level is Restricted.
	Restricted []RestrictedAllow

	// Sources are the names of the policies that matched, in order of name.
	Sources []string
	// Steps tell how the above came about, a line each. Neither is a part of
	// the canonical form: the same rules have the same digest.
	Steps []string
}

// ImageAllow is one policy's list of allowed images.
type ImageAllow struct {
	Policy string
	Allow  []ImageRule
}

// RestrictedAllow is what one policy's restricted lets through.
type RestrictedAllow struct {
	Policy string
	Mounts []MountRule
	Hooks  []HookRule
}

// BindMount is a bind of the host over a path of the image. Source has its
// symbolic links resolved.
type BindMount struct {
	Destination string
	Source      string
	ReadOnly    bool
}

// Hook is one OCI hook of a spec.
type Hook struct {
	Stage string
	Path  string
	Args  []string
	// SHA256 is the measured content of the program in hex; empty when it
	// could not be measured, which no rule that wants a digest accepts.
	SHA256 string
}

// Default is what holds where no policy matches: content is enforced, and what
// ctr, nerdctl and CRI bring along is recorded and let through.
func Default() Effective {
	e := Effective{
		Content:            defaultContent,
		Level:              defaultLevel,
		MinimumBinding:     defaultBinding,
		RootfsWithoutImage: defaultRootfs,
	}
	e.AcceptBinding = accepted(e.MinimumBinding)
	return e
}

func accepted(minimum Binding) []string {
	var out []string
	for _, b := range slices.Backward(bindings) {
		if !looser(bindings, b, minimum) {
			out = append(out, string(b))
		}
	}
	return out
}

// RefusedError says which policy refuses what.
type RefusedError struct {
	// Code is "policy-image", "policy-mount", "policy-hook", "policy-binding" or
	// "policy-rootfs".
	Code string
	// Policy is the name of the policy; empty for a default.
	Policy  string
	Subject string
	Message string
	Hint    string
}

func (e *RefusedError) Error() string {
	s := e.Subject + ": " + e.Message
	if e.Hint != "" {
		s += "\nhint: " + e.Hint
	}
	return s
}

// CheckImage returns a *RefusedError unless every list allows s.
func (e Effective) CheckImage(s Subject) error {
	for _, l := range e.Images {
		if _, ok := s.isOneOf(l.Allow); !ok {
			return &RefusedError{Code: "policy-image", Policy: l.Policy, Subject: s.identity(),
				Message: fmt.Sprintf("policy %s does not allow this image", l.Policy),
				Hint:    "add its digest, or the key of its signed reference, to spec.images.allow of that policy; sealift policy explain shows what matched"}
		}
	}
	return nil
}

// CheckBinding returns a *RefusedError unless class is firm enough.
func (e Effective) CheckBinding(class string) error {
	if slices.Contains(e.AcceptBinding, class) {
		return nil
	}
	return &RefusedError{Code: "policy-binding", Subject: "binding class " + class,
		Message: fmt.Sprintf("policy wants %s or firmer", e.MinimumBinding),
		Hint:    "docs/policy.md says what each class needs from the snapshotter"}
}

// CheckRootfs returns a *RefusedError unless a rootfs without an image may
// start.
func (e Effective) CheckRootfs() error {
	if e.RootfsWithoutImage == Allow {
		return nil
	}
	return &RefusedError{Code: "policy-rootfs", Subject: "rootfs",
		Message: "no image stands behind it, so there is nothing it could be compared with",
		Hint:    "run an image, or allow this tree: a policy with match.namespaces, match.images with the tree's digest, and rootfsWithoutImage: allow"}
}

// CheckMount returns a *RefusedError if level restricted refuses m.
func (e Effective) CheckMount(m BindMount) error {
	for _, l := range e.Restricted {
		if !slices.ContainsFunc(l.Mounts, func(r MountRule) bool { return r.accepts(m) }) {
			return &RefusedError{Code: "policy-mount", Policy: l.Policy, Subject: "mount " + m.Destination,
				Message: fmt.Sprintf("policy %s (restricted) does not list this bind of %s over the image", l.Policy, m.Source),
				Hint:    "add it to spec.mounts.allow of that policy, or start without it"}
		}
	}
	return nil
}

// CheckHook returns a *RefusedError if level restricted refuses h.
func (e Effective) CheckHook(h Hook) error {
	for _, l := range e.Restricted {
		if !slices.ContainsFunc(l.Hooks, func(r HookRule) bool { return r.accepts(h) }) {
			return &RefusedError{Code: "policy-hook", Policy: l.Policy, Subject: "hook " + h.Path,
				Message: fmt.Sprintf("policy %s (restricted) does not list this %s hook", l.Policy, h.Stage),
				Hint:    "add it to spec.hooks.allow of that policy, with its arguments as they are in config.json"}
		}
	}
	return nil
}

func (r MountRule) accepts(m BindMount) bool {
	return matchPath(r.Destination, m.Destination) &&
		(r.Source == "" || matchPath(r.Source, m.Source)) &&
		(!r.ReadOnly || m.ReadOnly)
}

func (r HookRule) accepts(h Hook) bool {
	return r.Path == h.Path &&
		(len(r.Stages) == 0 || slices.Contains(r.Stages, h.Stage)) &&
		(r.Args == nil || slices.Equal(r.Args, h.Args)) &&
		(r.SHA256 == "" || r.SHA256 == h.SHA256)
}

// Digest is the SHA-256 of the canonical form, as "sha256:<hex>".
func (e Effective) Digest() string {
	sum := sha256.Sum256(e.Canonical())
	return "sha256:" + hex.EncodeToString(sum[:])
}
