package made

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BuiltEnv tells tests that make has just built the binaries.
const BuiltEnv = "SEALIFT_BUILT"

// Variant is one build of Sealift's three binaries.
type Variant string

// The variants: what is installed, and the same with fault points.
const (
	Release Variant = "bin"
	Faults  Variant = "faults"
)

// Binaries returns the directory of a variant. Outside `make` it is built
// first: a test must not run on yesterday's binaries.
func Binaries(ctx context.Context, v Variant) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", string(v))
	if os.Getenv(BuiltEnv) != "" {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(root, "build", "."+string(v)+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	target := map[Variant]string{Release: "build", Faults: "build-faults"}[v]
	cmd := exec.CommandContext(ctx, "make", "-s", target)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make %s: %w\n%s", target, err, out)
	}
	return dir, nil
}
