package policy

import (
	"slices"

	"github.com/sealift/sealift/internal/strictyaml"
)

// later are parts that coming versions hold. Asking for one of them today is an
// error with this hint, so that nobody believes it is held.
var later = []string{"seccomp", "syscalls", "network", "exec", "files", "minimumRung", "migration", "capabilities"}

// unknownHint says what to do about an unknown field.
func unknownHint(name string, known []string) string {
	if slices.Contains(later, name) {
		return "this version does not hold " + name + ", and a policy that asks for it is refused rather than half held"
	}
	return strictyaml.DidYouMean(name, known)
}
