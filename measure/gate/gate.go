// Package gate decides: given what was measured of a container and the policy
// that holds for it, may it start? It is a function of its arguments; what it
// decides on is gathered elsewhere, and recorded together with its verdict.
package gate

import (
	"errors"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/policy"
)

// Facts are what is known of a would-be container.
type Facts struct {
	Subject policy.Subject
	// Rootfs is false for a root that no image stands behind.
	HasImage bool
	// Class is the weakest binding class among the root's layers; empty when
	// nothing could be measured.
	Class string
	// Never are findings that no policy lets through: a bad request, a mount of
	// Sealift's own state.
	Never []*nodev1.Reason
	// Content are findings about what is on disk: what is not what its image says.
	Content []*nodev1.Reason
	// Mounts are binds over paths of the image; Hooks are OCI hooks.
	Mounts []policy.BindMount
	Hooks  []policy.Hook
}

// Verdict is the gate's answer.
type Verdict struct {
	Allowed bool
	// Reasons are why not (when not Allowed).
	Reasons []*nodev1.Reason
	// WouldRefuse are findings that the mode "audit" let through.
	WouldRefuse []*nodev1.Reason
}

// Decide applies e to f. Findings of Never and of level restricted refuse in
// every mode; findings about content refuse under enforce, are kept under audit,
// and are not looked at when content is off.
func Decide(f Facts, e policy.Effective) Verdict {
	var v Verdict
	refuse := func(r ...*nodev1.Reason) { v.Reasons = append(v.Reasons, r...) }
	refuse(f.Never...)
	for _, m := range f.Mounts {
		refuse(reasons(e.CheckMount(m))...)
	}
	for _, h := range f.Hooks {
		refuse(reasons(e.CheckHook(h))...)
	}
	content := contentFindings(f, e)
	switch e.Content {
	case policy.Enforce:
		refuse(content...)
	case policy.Audit:
		v.WouldRefuse = content
	case policy.Off:
	default:
		// An unknown mode is the strictest one.
		refuse(content...)
	}
	v.Allowed = len(v.Reasons) == 0
	return v
}

func contentFindings(f Facts, e policy.Effective) []*nodev1.Reason {
	out := append([]*nodev1.Reason(nil), f.Content...)
	if !f.HasImage {
		out = append(out, reasons(e.CheckRootfs())...)
	}
	out = append(out, reasons(e.CheckImage(f.Subject))...)
	// The class of content that is wrong says nothing.
	if f.Class != "" && len(f.Content) == 0 {
		out = append(out, reasons(e.CheckBinding(f.Class))...)
	}
	return out
}

func reasons(err error) []*nodev1.Reason {
	if err == nil {
		return nil
	}
	var r *policy.RefusedError
	if !errors.As(err, &r) {
		return []*nodev1.Reason{{Code: "policy", Message: err.Error()}}
	}
	return []*nodev1.Reason{{Code: r.Code, Subject: r.Subject, Message: r.Message, Hint: r.Hint}}
}
