package policy

import "slices"

// Mode is how a check is held.
type Mode string

// The modes, from the loosest to the strictest.
const (
	// Off: not checked, and recorded as not checked.
	Off Mode = "off"
	// Audit: checked; what would have been refused is recorded and starts.
	Audit Mode = "audit"
	// Enforce: checked; what fails does not start.
	Enforce Mode = "enforce"
)

// Level is how much of the host a container may bring in, in Kubernetes' words.
type Level string

// The levels, from the loosest to the strictest.
const (
	// Privileged and Baseline record host binds over image paths and OCI hooks
	// and let them through. Privileged lets a container mount directories above
	// Sealift's own, such as /, too. The parts that tell them further apart
	// (syscalls, network, exec) come later.
	Privileged Level = "privileged"
	Baseline   Level = "baseline"
	// Restricted refuses the binds and hooks that the policy does not list.
	Restricted Level = "restricted"
)

// Binding is how firmly measured content is tied to what is mounted.
type Binding string

// The binding classes, from the loosest to the strictest; docs/policy.md and the
// measure packages say what each means.
const (
	BindingNone   Binding = "none"
	BindingTree   Binding = "tree"
	BindingBlob   Binding = "blob"
	BindingVerity Binding = "verity"
)

// Permission is a yes or a no.
type Permission string

// The permissions, from the loosest to the strictest.
const (
	Allow  Permission = "allow"
	Refuse Permission = "refuse"
)

// The scales: every word of a part, loosest first. Strictness is the index.
var (
	modes       = []Mode{Off, Audit, Enforce}
	levels      = []Level{Privileged, Baseline, Restricted}
	bindings    = []Binding{BindingNone, BindingTree, BindingBlob, BindingVerity}
	permissions = []Permission{Allow, Refuse}
)

// hookStages are the stages that the OCI runtime specification names.
var hookStages = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// The defaults: what holds for a part that no matching policy speaks of.
const (
	defaultContent = Enforce
	defaultLevel   = Baseline
	defaultBinding = BindingTree
	defaultRootfs  = Refuse
)

// stricter returns the stricter of a and b on a scale; the empty word, which
// says nothing, is looser than all.
func stricter[W ~string](scale []W, a, b W) W {
	if slices.Index(scale, b) > slices.Index(scale, a) {
		return b
	}
	return a
}

// looser reports whether a is strictly looser than b.
func looser[W ~string](scale []W, a, b W) bool {
	return slices.Index(scale, a) < slices.Index(scale, b)
}
