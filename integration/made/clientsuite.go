package made

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// imageListEnv names the variable from which the built client suite takes the
// file that names its images. As published the flag of that name has no effect:
// the images are looked up before flags are read.
const imageListEnv = "IMAGE_LIST"

// ClientSuite returns containerd's own client test suite, of the version that
// Containerd returns, as one test binary with runc-fp (which two of its tests
// want in PATH) beside it.
func ClientSuite(ctx context.Context) (dir string, err error) {
	m, err := containerdSource(ctx)
	if err != nil {
		return "", err
	}
	return ensure(ctx, "clientsuite-"+m.version+"-"+m.key, func(ctx context.Context, dir string) error {
		cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", containerdModule)
		cmd.Dir = m.dir
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("source of %s: %w", containerdModule, err)
		}
		source, err := os.MkdirTemp("", "sealift-suite-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(source)
		if err := os.CopyFS(source, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
			return err
		}
		if err := patchImageList(filepath.Join(source, "integration", "images", "image_list.go")); err != nil {
			return err
		}
		test := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-o", filepath.Join(dir, "client.test"), "./integration/client")
		test.Dir = source
		test.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
		if out, err := test.CombinedOutput(); err != nil {
			return fmt.Errorf("go test -c: %w\n%s", err, out)
		}
		return goBuild(ctx, source, "-o", dir+"/", "./integration/failpoint/cmd/runc-fp")
	})
}

func patchImageList(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	const was, is = `flag.String("image-list", "",`, `flag.String("image-list", os.Getenv("` + imageListEnv + `"),`
	patched := bytes.Replace(b, []byte(was), []byte(is), 1)
	if bytes.Equal(b, patched) {
		return fmt.Errorf("%s: the flag image-list is not where it was", filepath.Base(file))
	}
	// Files of the module cache are read-only, and so are their copies.
	if err := os.Chmod(file, 0o644); err != nil {
		return err
	}
	return os.WriteFile(file, patched, 0o644)
}
