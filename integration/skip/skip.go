// Package skip is the one way a test may be skipped: on the type of an error
// that says what this machine lacks. The suite runner knows which skips to
// expect, and fails on any other.
package skip

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
)

// On skips the test when err says that the machine lacks something
// (errors.ErrUnsupported), that the tests are not run as root
// (fs.ErrPermission), or that they are run for another target (*TargetError),
// fails it on any other error, and goes on without one.
func On(t testing.TB, err error) {
	t.Helper()
	var target *TargetError
	switch {
	case err == nil:
	case errors.As(err, &target):
		t.Skipf("skip[target]: %v", err)
	case errors.Is(err, fs.ErrPermission):
		t.Skipf("skip[permission]: %v", err)
	case errors.Is(err, errors.ErrUnsupported):
		t.Skipf("skip[unsupported]: %v", err)
	default:
		t.Fatal(err)
	}
}

// NeedRoot returns an error of type fs.ErrPermission unless the tests run as
// root.
func NeedRoot() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("not root: %w", fs.ErrPermission)
	}
	return nil
}

// targetEnv is set by the make targets whose tests are too long for `make test`.
const targetEnv = "SEALIFT_TEST"

// TargetError says that a test belongs to another make target.
type TargetError struct{ Target string }

func (e *TargetError) Error() string { return "a test of make test-" + e.Target }

// NeedTarget returns a *TargetError unless the tests run for a target: "vm" or
// "long".
func NeedTarget(target string) error {
	if os.Getenv(targetEnv) != target {
		return &TargetError{target}
	}
	return nil
}
