package integration

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/skip"
)

// TestInstall installs below another root and takes it all away again.
func TestInstall(t *testing.T) {
	_, err := made.Binaries(t.Context(), made.Release)
	skip.On(t, err)
	root, err := made.Root()
	if err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	files := func(target string) (found []string) {
		t.Helper()
		// The binaries are there, and others are running them.
		out, err := exec.CommandContext(t.Context(), "make", "-C", root, "--old-file=build", target, "DESTDIR="+dest).CombinedOutput()
		if err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
		err = filepath.WalkDir(dest, func(p string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				found = append(found, p[len(dest):])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	want := []string{"/etc/systemd/system/sealift-swtpm.service", "/etc/systemd/system/sealiftd.service",
		"/usr/local/bin/containerd-shim-sealift-v2", "/usr/local/bin/sealift", "/usr/local/bin/sealiftd"}
	if got := files("install"); !slices.Equal(got, want) {
		t.Errorf("installed %q", got)
	}
	if got := files("uninstall"); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}
