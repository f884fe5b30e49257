package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseMounts(t *testing.T) {
	got := parseMounts([]byte("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw\n37 35 0:5 / /dev rw - devtmpfs x rw\nshort\n"))
	want := []mountEntry{{"98:0", "/mnt1", "/mnt 2"}, {"0:5", "/", "/dev"}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v", got)
	}
	for in, want := range map[string]string{`a\134b`: `a\b`, `\011`: "\t", `a\9`: `a\9`, `\400`: `\400`} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q", in, got)
		}
	}
}

// A bind mount is found by what it shows, whatever it was called when it was
// made. This process stands for the container.
func TestExposed(t *testing.T) {
	dir := t.TempDir()
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
			skipUnlessPermitted(t, err)
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

// skipUnlessPermitted skips where this user may not mount, and fails otherwise.
func skipUnlessPermitted(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("needs root: %v", err)
	}
	t.Fatal(err)
}
