package made

import (
	"context"
	"os"
	"path/filepath"

	"github.com/sealift/sealift/integration/image"
)

// Image returns an image's layout, written when absent. The key is the code
// that writes it.
func Image(ctx context.Context, name string, spec func(busybox string) image.Spec) (*image.Image, error) {
	rootfs, err := Rootfs(ctx)
	if err != nil {
		return nil, err
	}
	root, err := Root()
	if err != nil {
		return nil, err
	}
	parts := []string{filepath.Base(rootfs)}
	code, err := filepath.Glob(filepath.Join(root, "integration", "image", "*.go"))
	if err != nil {
		return nil, err
	}
	for _, f := range code {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		parts = append(parts, string(b))
	}
	dir, err := ensure(ctx, "image-"+name+"-"+key(parts...), func(_ context.Context, dir string) error {
		_, err := image.Write(dir, spec(image.Busybox(rootfs)))
		return err
	})
	if err != nil {
		return nil, err
	}
	return image.Open(dir)
}
