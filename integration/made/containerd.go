package made

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const containerdModule = "github.com/containerd/containerd/v2"

// Containerd returns a directory with containerd, ctr and containerd-shim-runc-v2
// of the newest line, built from the module that integration/containerd24 pins.
// The shim is built as its authors release it, so that it is a fair peer.
func Containerd(ctx context.Context) (string, error) {
	m, err := containerdSource(ctx)
	if err != nil {
		return "", err
	}
	return ensure(ctx, "containerd-"+m.version+"-"+m.key, func(ctx context.Context, dir string) error {
		version := "-s -w -X " + containerdModule + "/version.Version=" + m.version
		if err := goBuild(ctx, m.dir, "-tags", "no_btrfs,no_devmapper,no_zfs", "-ldflags", version,
			"-o", dir+"/", containerdModule+"/cmd/containerd", containerdModule+"/cmd/ctr"); err != nil {
			return err
		}
		return goBuild(ctx, m.dir, "-tags", "no_grpc", "-ldflags", version,
			"-o", dir+"/", containerdModule+"/cmd/containerd-shim-runc-v2")
	})
}

type containerdModuleAt struct{ dir, version, key string }

func containerdSource(ctx context.Context) (containerdModuleAt, error) {
	root, err := Root()
	if err != nil {
		return containerdModuleAt{}, err
	}
	m := containerdModuleAt{dir: filepath.Join(root, "integration", "containerd24")}
	var parts []string
	for _, f := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(m.dir, f))
		if err != nil {
			return m, err
		}
		parts = append(parts, string(b))
	}
	m.key = key(append(parts, "2", runtime.GOARCH)...)
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", containerdModule)
	cmd.Dir = m.dir
	out, err := cmd.Output()
	if err != nil {
		return m, fmt.Errorf("version of %s: %w", containerdModule, err)
	}
	m.version = strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
	return m, nil
}

func goBuild(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", dir, err, out)
	}
	return nil
}
