package tree_test

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// sample makes a small layer directory and the manifest of a tar that says the
// same.
func sample(t *testing.T) (dir string, want *layer.Manifest) {
	t.Helper()
	skip.On(t, skip.NeedRoot())
	dir = t.TempDir()
	at := time.Unix(1_700_000_000, 0)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(name string) string { return filepath.Join(dir, name) }
	must(os.MkdirAll(p("usr/bin"), 0o755))
	must(os.Mkdir(p("etc"), 0o755))
	must(os.WriteFile(p("usr/bin/tool"), []byte("tool"), 0o755))
	must(os.WriteFile(p("etc/conf"), []byte("conf"), 0o644))
	must(os.WriteFile(p("etc/peer"), []byte("peer"), 0o644))
	must(os.Link(p("etc/conf"), p("etc/linked")))
	must(os.Symlink("tool", p("usr/bin/alias")))
	must(unix.Mknod(p("etc/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mkfifo(p("etc/fifo"), 0o600))
	must(unix.Mknod(p("etc/gone"), unix.S_IFCHR, 0))
	must(unix.Setxattr(p("etc"), "trusted.overlay.opaque", []byte("y"), 0))

	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, body string) {
		h.Size, h.ModTime, h.Format = int64(len(body)), at, tar.FormatPAX
		must(w.WriteHeader(&h))
		_, err := w.Write([]byte(body))
		must(err)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/tool", Mode: 0o755}, "tool")
	add(tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/bin/alias", Linkname: "tool"}, "")
	add(tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/conf", Mode: 0o644}, "conf")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/peer", Mode: 0o644}, "peer")
	add(tar.Header{Typeflag: tar.TypeLink, Name: "etc/linked", Linkname: "etc/conf", Mode: 0o644}, "")
	add(tar.Header{Typeflag: tar.TypeChar, Name: "etc/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, "")
	add(tar.Header{Typeflag: tar.TypeFifo, Name: "etc/fifo", Mode: 0o600}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh.gone"}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh..wh..opq"}, "")
	must(w.Close())
	for _, name := range []string{"usr/bin/tool", "usr/bin/alias", "etc/conf", "etc/peer", "etc/null", "etc/fifo", "etc"} {
		setMTime(t, p(name), at)
	}
	must(os.Chmod(p("etc/null"), 0o666))
	must(os.Chmod(p("usr/bin"), 0o755))
	want, err := layer.FromTar(&buf)
	must(err)
	return dir, want
}

func setMTime(t *testing.T, path string, at time.Time) {
	t.Helper()
	ts := unix.NsecToTimespec(at.UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
}

func measure(t *testing.T, dir string, o tree.Options) *tree.Result {
	t.Helper()
	res, err := tree.Measure(context.Background(), dir, o)
	return bound(t, res, err)
}

// bound is what was measured; its binding ends with the test.
func bound(t *testing.T, res *tree.Result, err error) *tree.Result {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := res.Binding.Close(); err != nil {
			t.Error(err)
		}
	})
	return res
}

func TestMeasureEqualsTar(t *testing.T) {
	dir, want := sample(t)
	res := measure(t, dir, tree.Options{Want: want})
	for _, d := range res.Differences {
		t.Error(d)
	}
	if got := res.Manifest.Digest(); got != want.Digest() {
		t.Errorf("digest %s, want %s", got, want.Digest())
	}
	if res.Files != 3 || res.Bytes != 12 {
		t.Errorf("hashed %d files, %d bytes; want 3 files, 12 bytes", res.Files, res.Bytes)
	}
	if c := res.Binding.Class(); c != tree.ClassTree {
		t.Fatalf("class %s: %s", c, res.Binding.Reason())
	}
	if err := res.Binding.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if len(res.Implied) != 2 {
		t.Errorf("implied: %v", res.Implied)
	}
}
