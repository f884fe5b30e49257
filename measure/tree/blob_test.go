package tree_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// image packs the sample into an EROFS image.
func image(t *testing.T) (path string, want *layer.Manifest) {
	t.Helper()
	dir, want := sample(t)
	path = filepath.Join(t.TempDir(), "layer.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := erofs.Create(f)
	if err := w.CopyFrom(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Setxattr("/etc", "trusted.overlay.opaque", "y"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path, want
}

func measureBlob(t *testing.T, path string, o tree.Options) *tree.Result {
	t.Helper()
	res, err := tree.MeasureBlob(t.Context(), path, o)
	return bound(t, res, err)
}

// An image of a layer's directory measures to what the layer's tar says, but for
// hard links, which the packer used here does not keep.
func TestMeasureBlob(t *testing.T) {
	path, want := image(t)
	res := measureBlob(t, path, tree.Options{Want: want})
	for _, d := range res.Differences {
		if d.Kind != layer.KindHardlink {
			t.Error(d)
		}
	}
	if c := res.Binding.Class(); c != tree.ClassBlob && c != tree.ClassVerity {
		t.Fatalf("class %s: %s", c, res.Binding.Reason())
	}
	if err := res.Binding.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// The kernel's own reading of the image, mounted, agrees with ours.
func TestBlobAgreesWithKernel(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	path, _ := image(t)
	mnt := t.TempDir()
	err := unix.Mount(path, mnt, "erofs", unix.MS_RDONLY, "")
	if errors.Is(err, unix.ENOTBLK) || errors.Is(err, unix.ENODEV) {
		skip.On(t, fmt.Errorf("mounting an EROFS file: %w", errors.ErrUnsupported))
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	}()
	kernel := measure(t, mnt, tree.Options{})
	ours := measureBlob(t, path, tree.Options{})
	for _, d := range layer.Compare(kernel.Manifest, ours.Manifest) {
		t.Error(d)
	}
	if kernel.Manifest.Digest() != ours.Manifest.Digest() {
		t.Error("the digests differ")
	}
}

func TestBlobBinding(t *testing.T) {
	path, _ := image(t)
	b := measureBlob(t, path, tree.Options{}).Binding
	if b.Class() == tree.ClassVerity {
		skip.On(t, fmt.Errorf("a file system without fs-verity: %w", errors.ErrUnsupported))
	}
	if b.Class() != tree.ClassBlob {
		t.Fatalf("class %s: %s", b.Class(), b.Reason())
	}
	// Who wants to write must wait for the lease; who does not wait is refused.
	_, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("open for writing: %v", err)
	}
	moved(t, b)

	b = measureBlob(t, path, tree.Options{}).Binding
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	moved(t, b)
	if err := os.WriteFile(path, []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	moved(t, b)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Check(t.Context()); !errors.Is(err, tree.ErrUnbound) {
		t.Errorf("closed: %v", err)
	}
}

func TestBlobOpenForWritingIsUnbound(t *testing.T) {
	path, _ := image(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b := measureBlob(t, path, tree.Options{}).Binding; b.Class() != tree.ClassNone || b.Reason() == "" {
		t.Errorf("class %s, reason %q", b.Class(), b.Reason())
	}
}

// Any damage ends in an error or a difference, never in a panic or a pass that
// changes what is read.
func TestDamagedBlob(t *testing.T) {
	path, _ := image(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := measureBlob(t, path, tree.Options{}).Manifest
	dir := t.TempDir()
	for i := 0; i < len(good); i += 61 {
		bad := bytes.Clone(good)
		bad[i] ^= 0xff
		p := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(p, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		res, err := tree.MeasureBlob(t.Context(), p, tree.Options{Want: want})
		if err != nil {
			if !errors.Is(err, tree.ErrImage) {
				t.Errorf("byte %d: %v", i, err)
			}
			continue
		}
		if len(res.Differences) == 0 && res.Manifest.Digest() != want.Digest() {
			t.Errorf("byte %d: another digest without a difference", i)
		}
		if err := res.Binding.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What the kernel could understand in another way than the reader is no image.
func TestImageForm(t *testing.T) {
	path, _ := image(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	img, err := erofs.Open(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	inode := func(name string) int64 {
		info, err := fs.Stat(img, name)
		if err != nil {
			t.Fatal(err)
		}
		block := int64(1) << good[1024+12]
		return int64(le.Uint32(good[1024+40:]))*block + info.Sys().(*erofs.Stat).Ino*32
	}
	file := inode("etc/conf")
	reserved := map[bool]int64{false: 12, true: 6}[good[file]&1 != 0]
	for name, change := range map[string]func(b []byte){
		"upper bits of a block address, or a time": func(b []byte) { b[file+reserved] = 1 },
		"format of another version":                func(b []byte) { b[file] |= 1 << 5 },
		"a feature of another version":             func(b []byte) { b[1024+8] |= 8 },
		"inodes in an inode":                       func(b []byte) { b[1024+81] |= 1 },
		"names out of order": func(b []byte) {
			b[bytes.Index(b, []byte("nullpeer"))] = 'a'
		},
		"a name of nothing": func(b []byte) { b[bytes.Index(b, []byte("nullpeer"))] = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(good)
			change(b)
			p := filepath.Join(t.TempDir(), "layer.erofs")
			if err := os.WriteFile(p, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := tree.MeasureBlob(t.Context(), p, tree.Options{}); !errors.Is(err, tree.ErrImage) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNotAnImage(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, bytes.Repeat([]byte("no"), 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.MeasureBlob(t.Context(), p, tree.Options{}); !errors.Is(err, tree.ErrImage) {
		t.Errorf("got %v", err)
	}
}

func TestVerity(t *testing.T) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = tree.MeasureVerity(int(f.Fd()))
	if !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, tree.ErrNoVerity) {
		t.Errorf("a fresh test binary: %v", err)
	}
}
