package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
)

// A bind mount is found by what it shows, whatever it was called when it was
// made. This process stands for the container.
func TestExposed(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	dir := filepath.Join(t.TempDir(), "with space")
	state, inner, ours, other := filepath.Join(dir, "state"), filepath.Join(dir, "state", "log"), filepath.Join(dir, "at"), filepath.Join(dir, "elsewhere")
	for _, d := range []string{inner, ours, other} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p := Protected{Paths: []string{state, filepath.Join(dir, "missing")}}
	if err := p.Exposed(os.Getpid()); err != nil {
		t.Fatalf("nothing is mounted: %v", err)
	}
	mount := func(source string) {
		t.Helper()
		if err := unix.Mount(source, ours, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	mount(other)
	err := p.Exposed(os.Getpid())
	if e := unix.Unmount(ours, unix.MNT_DETACH); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Errorf("another directory: %v", err)
	}
	for _, source := range []string{state, inner} {
		mount(source)
		err := p.Exposed(os.Getpid())
		if e := unix.Unmount(ours, unix.MNT_DETACH); e != nil {
			t.Fatal(e)
		}
		var exposed *ExposedError
		if !errors.As(err, &exposed) || exposed.Path != state || exposed.At != ours {
			t.Errorf("%s: %v", source, err)
		}
	}
	if err := p.Exposed(1 << 30); err == nil {
		t.Error("a process that is not there passed")
	}
}
