// Package runtime is the OCI side of Sealift: the bundle as it was measured,
// the specification runc is given, what a specification may not reach, and
// runc itself, driven through go-runc. The agent uses the pure parts.
package runtime

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// maxIDLength is containerd's own limit on identifiers.
const maxIDLength = 76

// ValidID says whether s can be a containerd namespace or a container's id:
// runs of letters and digits, joined by single dots, dashes or underscores. So
// it holds no separator and no "..", and may be a path component. The rule is
// containerd's pkg/identifiers.
func ValidID(s string) error {
	if s == "" {
		return fmt.Errorf("identifier is empty: %w", errdefs.ErrInvalidArgument)
	}
	if len(s) > maxIDLength {
		return fmt.Errorf("identifier %.20q… has %d characters, at most %d are allowed: %w", s, len(s), maxIDLength, errdefs.ErrInvalidArgument)
	}
	joined := false
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			joined = true
		case (c == '.' || c == '-' || c == '_') && joined:
			joined = false
		default:
			return fmt.Errorf("identifier %q is not letters and digits joined by '.', '-' or '_': %w", s, errdefs.ErrInvalidArgument)
		}
	}
	if !joined {
		return fmt.Errorf("identifier %q ends in a separator: %w", s, errdefs.ErrInvalidArgument)
	}
	return nil
}
