// Package policy is the WorkloadPolicy language: it reads policies, finds those
// that match one would-be launch, and merges them into one effective policy.
//
// The rules of merging, which everything else here serves:
//
//   - Of several matches the strictest wins, part by part. The order of files
//     and rules never matters.
//   - A part that no match speaks of has its default (see Default).
//   - A policy may go below a default only if it selects by containerd
//     namespace, or by namespace and digest or signed reference, and by nothing
//     else. Names, labels and annotations are what a tenant can choose, and so
//     is which image's digest a container claims to have: they may only
//     tighten. A file that breaks this does not load.
//   - What this version does not hold is an error and not a warning: unknown
//     fields, and the parts of later versions (syscalls, network, exec, files)
//     too.
//
// The package imports nothing of containerd and touches the host only in
// LoadDir and LoadFile. The language is described in docs/policy.md.
package policy

// APIVersion and Kind head every policy file.
const (
	APIVersion = "sealift.dev/v1"
	Kind       = "WorkloadPolicy"
)

// Policy is one WorkloadPolicy as read from one file.
type Policy struct {
	// Name is metadata.name, unique in a Set.
	Name string
	// File is where it was read from, Digest the SHA-256 of that file's bytes
	// as "sha256:<hex>".
	File   string
	Digest string
	Match  Match
	Spec   Spec
}

// Match selects launches. Every selector that is set must hold; inside a list
// one entry suffices. The zero Match selects every launch.
type Match struct {
	// Namespaces are containerd namespaces, exactly.
	Namespaces []string
	// Images selects by what the image is.
	Images []ImageRule
	// Names are image names as given, with * for any run of characters.
	Names []string
	// Labels and Annotations are exact values, or "*" for "is set".
	Labels      map[string]string
	Annotations map[string]string
}

// tenantControlled names the selectors of m that a tenant can set, in a fixed
// order.
func (m Match) tenantControlled() []string {
	var out []string
	if len(m.Names) > 0 {
		out = append(out, "names")
	}
	if len(m.Labels) > 0 {
		out = append(out, "labels")
	}
	if len(m.Annotations) > 0 {
		out = append(out, "annotations")
	}
	return out
}

// mayLoosen reports whether a policy with this match may go below a default.
func (m Match) mayLoosen() bool {
	return len(m.Namespaces) > 0 && len(m.tenantControlled()) == 0
}

// Spec is what a policy says. A zero field says nothing about that part; a
// non-nil empty list says "none".
type Spec struct {
	Content            Mode
	Level              Level
	MinimumBinding     Binding
	RootfsWithoutImage Permission
	// Images, when set, are the only images allowed.
	Images *ImageList
	// Mounts and Hooks are what level restricted accepts. They belong to this
	// policy's own restricted and cannot widen another policy's.
	Mounts []MountRule
	Hooks  []HookRule
}

// ImageList is a list of images, one of which an image must be.
type ImageList struct {
	Allow []ImageRule
}

// ImageRule names images by what they are. Exactly one field is set.
type ImageRule struct {
	// Digest is a manifest or index digest ("sha256:<hex>"), or the tree digest
	// of a rootfs without an image ("sealift-tree-v1:<hex>").
	Digest string
	// SignedBy is "KEY" or "KEY/BUNDLE": an image that a bundle signed by that
	// trusted key lists.
	SignedBy string
}

// MountRule accepts a bind of a host path over a path of the image.
type MountRule struct {
	// Destination is a path in the container, Source one on the host; both are
	// path patterns. An empty Source accepts every source.
	Destination string
	Source      string
	// ReadOnly accepts the bind only if it is read-only.
	ReadOnly bool
}

// HookRule accepts an OCI hook.
type HookRule struct {
	// Path is the program, exactly.
	Path string
	// Stages are OCI's names; none means every stage.
	Stages []string
	// Args is the whole argument vector, exactly; nil accepts every one.
	Args []string
	// SHA256 is the program's content as 64 hex digits; empty accepts any.
	SHA256 string
}
