// Package doctor finds out, by trying, what a machine can hold. It changes
// nothing: what a check mounts it mounts in a namespace of its own, what it
// attaches to the kernel acts on its own thread only and is gone when it ends.
package doctor

import (
	"context"
	"time"
)

// State is what a check found.
type State string

const (
	// Good: there, and it works.
	Good State = "ok"
	// Note: works, but somebody should know something.
	Note State = "note"
	// Absent: not there, and not required; the hint says what it would bring.
	Absent State = "absent"
	// Missing: required, and not there or not working.
	Missing State = "missing"
	// Unknown: it could not be tried, and the detail says why.
	Unknown State = "unknown"
)

// Result is one finding.
type Result struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Detail says what was found, Hint what to do about it.
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

// Paths say where things are; tests put them elsewhere.
type Paths struct {
	Socket      string
	TPM         string
	Embedded    string
	PolicyDir   string
	TrustDir    string
	Containerds []string
	StateDir    string
}

// timeout bounds one check.
const timeout = 5 * time.Second

// check is one thing to try. Most return one result.
type check func(ctx context.Context, p Paths) []Result

// Run tries everything, in a fixed order.
func Run(ctx context.Context, p Paths) []Result {
	var out []Result
	for _, c := range []check{
		kernel, cgroups, overlay, erofs, fsverity, bpfLSM, ima,
		tpmDevice, swtpm,
		runc, containerds, shim,
		agent, policies, trust, space,
	} {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		out = append(out, c(ctx, p)...)
		cancel()
	}
	return out
}

// Healthy reports whether nothing required is missing.
func Healthy(results []Result) bool {
	for _, r := range results {
		if r.State == Missing {
			return false
		}
	}
	return true
}

func one(name string, s State, detail, hint string) []Result {
	return []Result{{Name: name, State: s, Detail: detail, Hint: hint}}
}
