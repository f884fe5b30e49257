package launch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sealift/sealift/integration/skip"
)

// A destination leads through links of one layer to files of another, and
// through whiteouts to nothing.
func TestInImage(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	top, bottom := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.MkdirAll(bottom+"/usr/lib", 0o755), os.MkdirAll(bottom+"/etc", 0o755), os.Symlink("usr/lib", bottom+"/lib"),
		os.WriteFile(bottom+"/etc/gone", nil, 0o644), os.WriteFile(bottom+"/etc/kept", nil, 0o644), os.Symlink("/loop", bottom+"/loop"),
		os.Symlink("../../../etc", bottom+"/up"),
		os.MkdirAll(top+"/usr/lib", 0o755), os.WriteFile(top+"/usr/lib/app.so", nil, 0o644), os.MkdirAll(top+"/etc", 0o755),
		unix.Mknod(top+"/etc/gone", unix.S_IFCHR, 0),
	); err != nil {
		t.Fatal(err)
	}
	for destination, want := range map[string]bool{
		"/usr/lib/app.so": true, "/lib/app.so": true, "lib/../lib/app.so": true, "/etc/kept": true, "/up/kept": true, "/": true, "/lib": true,
		"/loop": true, "/loop/x": true, "/lib/none": false, "/etc/gone": false, "/etc/new": false, "/new/dir": false,
	} {
		if got := inImage([]string{top, bottom}, destination); got != want {
			t.Errorf("%s: %t, wanted %t", destination, got, want)
		}
	}
}

// Everything that brings content from elsewhere is a bind to policy, whatever
// file system it is called.
func TestForeignMounts(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/usr/lib", 0o755), os.Mkdir(dir+"/proc", 0o755)); err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{Mounts: []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/usr/lib", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/usr/lib", Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/srv/evil:/srv/more"}},
		{Destination: "/usr/lib", Type: "erofs", Source: filepath.Join(dir, "evil.img"), Options: []string{"ro"}},
		{Destination: "/usr/lib", Type: "none", Source: "/srv/evil", Options: []string{"rbind"}},
	}}
	got, err := binds(s, []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("%d binds, wanted the overlay, the image and the bind: %+v", len(got), got)
	}
	for i, want := range []string{"overlay", "erofs", "missing"} {
		if got[i].Type != want || !got[i].CoversImage {
			t.Errorf("bind %d: %+v, wanted type %s over the image", i, got[i], want)
		}
	}
}
