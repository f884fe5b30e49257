package node

import (
	"fmt"
	"strings"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// RefusedError is a launch that the agent refused.
type RefusedError struct {
	Namespace, ID string
	Refused       *nodev1.Refused
}

// maxShown bounds how many reasons an error message lists.
const maxShown = 5

func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "sealift refused %s/%s", e.Namespace, e.ID)
	if e.Refused.GetSeq() != 0 {
		fmt.Fprintf(&b, " (log record %d)", e.Refused.GetSeq())
	}
	b.WriteString(FormatReasons(e.Refused.GetReasons()))
	return b.String()
}

// FormatReasons renders reasons for a person, one to a line, with their hints
// after them; each hint is printed once.
func FormatReasons(reasons []*nodev1.Reason) string {
	var b strings.Builder
	hints := map[string]bool{}
	var order []string
	for i, r := range reasons {
		if i == maxShown {
			fmt.Fprintf(&b, "\n  … and %d more", len(reasons)-maxShown)
			break
		}
		b.WriteString("\n  " + FormatReason(r))
		if h := r.GetHint(); h != "" && !hints[h] {
			hints[h] = true
			order = append(order, h)
		}
	}
	for _, h := range order {
		b.WriteString("\nhint: " + h)
	}
	return b.String()
}

// FormatReason renders one reason on one line, without its hint.
func FormatReason(r *nodev1.Reason) string {
	var b strings.Builder
	if r.GetLayer() != "" {
		fmt.Fprintf(&b, "layer %s: ", r.GetLayer())
	}
	if r.GetPath() != "" {
		fmt.Fprintf(&b, "%q: ", r.GetPath())
	} else if r.GetSubject() != "" {
		fmt.Fprintf(&b, "%s: ", r.GetSubject())
	}
	b.WriteString(r.GetMessage())
	if r.GetWanted() != "" || r.GetFound() != "" {
		fmt.Fprintf(&b, ": wanted %s, found %s", r.GetWanted(), r.GetFound())
	}
	return b.String()
}
