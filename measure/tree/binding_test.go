package tree_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// moved fails unless b's check notices.
func moved(t *testing.T, b *tree.Binding) {
	t.Helper()
	var m *tree.MovedError
	if err := b.Check(t.Context()); !errors.As(err, &m) {
		t.Errorf("the binding's check says %v, want a *MovedError", err)
	}
}

// page is a file of one page and a writable shared mapping of it.
type page struct {
	path string
	mem  []byte
}

func mapPage(t *testing.T, path string) page {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	return page{path, mem}
}

func onePage(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "f")
	if err := os.WriteFile(path, make([]byte, os.Getpagesize()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// A page that is mapped and dirty before measuring can be stored to later
// without moving size, mtime or ctime. The attack itself must work here, or the
// denial below proves nothing.
func TestStoreThroughOldMapping(t *testing.T) {
	dir, path := onePage(t)
	m := mapPage(t, path)
	m.mem[0] = 1 // dirty: ctime moves now, and not again

	res := measure(t, dir, tree.Options{})
	if res.Binding.Class() != tree.ClassNone || !strings.Contains(res.Binding.Reason(), "writing") {
		t.Errorf("class %s, reason %q: a mapped file must not be bound", res.Binding.Class(), res.Binding.Reason())
	}
	if err := res.Binding.Check(t.Context()); !errors.Is(err, tree.ErrUnbound) {
		t.Errorf("check: %v", err)
	}
	before := stat(t, path)
	m.mem[0] = 2
	after := stat(t, path)
	if before.Ctim != after.Ctim || before.Mtim != after.Mtim || before.Size != after.Size {
		t.Log("this file system shows the store: the attack does not work here")
	}
	if b, err := os.ReadFile(path); err != nil || b[0] != 2 {
		t.Fatalf("the store did not arrive: %v", err)
	}
}

// A mapping made after measuring shows by ctime at its first store.
func TestStoreThroughNewMapping(t *testing.T) {
	dir, path := onePage(t)
	b := measure(t, dir, tree.Options{}).Binding
	if err := b.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := mapPage(t, path)
	if err := b.Check(t.Context()); err != nil {
		t.Errorf("mapped, nothing stored: %v", err)
	}
	m.mem[0] = 1
	moved(t, b)
	if c := measure(t, dir, tree.Options{}).Binding.Class(); c != tree.ClassNone {
		t.Errorf("measured again while it is mapped: class %s", c)
	}
}

// Who has it open for writing, even without having written, keeps it unbound.
func TestOpenForWriting(t *testing.T) {
	dir, path := onePage(t)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if c := measure(t, dir, tree.Options{}).Binding.Class(); c != tree.ClassNone {
		t.Errorf("class %s while it is open for writing", c)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if res := measure(t, dir, tree.Options{}); res.Binding.Class() != tree.ClassTree {
		t.Errorf("the control, closed: class %s: %s", res.Binding.Class(), res.Binding.Reason())
	}
}

// A file that is written all the while is a difference, not a snapshot.
func TestChangesWhileMeasured(t *testing.T) {
	dir, path := onePage(t)
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan error)
	go func() {
		for i := byte(0); ; i++ {
			select {
			case <-stop:
				ended <- f.Close()
				return
			default:
			}
			if _, err := f.WriteAt([]byte{i}, 0); err != nil {
				ended <- err
				return
			}
		}
	}()
	res := measure(t, dir, tree.Options{})
	close(stop)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if len(res.Differences) == 0 || res.Differences[0].Kind != layer.KindChanging {
		t.Errorf("differences %v", res.Differences)
	}
	if res.Binding.Class() != tree.ClassNone {
		t.Errorf("class %s", res.Binding.Class())
	}
}

// Times can be put back, ctime cannot.
func TestWrittenAndTimesPutBack(t *testing.T) {
	dir, path := onePage(t)
	b := measure(t, dir, tree.Options{}).Binding
	before := stat(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{9}, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	ts := []unix.Timespec{before.Atim, before.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0); err != nil {
		t.Fatal(err)
	}
	if after := stat(t, path); after.Mtim != before.Mtim || after.Size != before.Size {
		t.Fatal("the attack did not put the times back")
	}
	moved(t, b)
}

// A file written in the very tick before measuring: ctime alone could not tell a
// second write in that tick, so measuring waits for the tick to pass.
func TestWrittenInTheSameTick(t *testing.T) {
	dir, path := onePage(t)
	for i := range 50 {
		if err := os.WriteFile(path, []byte{byte(i)}, 0o644); err != nil {
			t.Fatal(err)
		}
		b := measure(t, dir, tree.Options{}).Binding
		if b.Class() != tree.ClassTree {
			t.Fatal(b.Reason())
		}
		if err := os.WriteFile(path, []byte{byte(i + 1)}, 0o644); err != nil {
			t.Fatal(err)
		}
		moved(t, b)
	}
}

func TestReplacedAndRenamed(t *testing.T) {
	for name, do := range map[string]func(dir string) error{
		"same content in a new inode": func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, "sub/f"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "sub/g"), b, 0o644); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "sub/g"), filepath.Join(dir, "sub/f"))
		},
		"renamed away and back": func(dir string) error {
			if err := os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "bus")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "bus"), filepath.Join(dir, "sub"))
		},
		"directory exchanged with its twin": func(dir string) error {
			return unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "sub"), unix.AT_FDCWD, filepath.Join(dir, "twin"), unix.RENAME_EXCHANGE)
		},
		"entry added to an empty directory": func(dir string) error { return os.WriteFile(filepath.Join(dir, "empty/x"), nil, 0o644) },
		"entry removed":                     func(dir string) error { return os.Remove(filepath.Join(dir, "sub/f")) },
		"the whole tree is gone":            func(dir string) error { return os.Rename(dir, dir+".away") },
		"another tree in its place": func(dir string) error {
			if err := os.Rename(dir, dir+".away"); err != nil {
				return err
			}
			return os.Mkdir(dir, 0o755)
		},
		"owner": func(dir string) error { return os.Chmod(filepath.Join(dir, "sub/f"), 0o640) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "layer")
			for _, d := range []string{"sub", "twin", "empty"} {
				if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range []string{"sub/f", "twin/f"} {
				if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b := measure(t, dir, tree.Options{}).Binding
			if err := b.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := do(dir); err != nil {
				t.Fatal(err)
			}
			moved(t, b)
		})
	}
}

// Reading, listing and a start's own accesses move nothing.
func TestReadingMovesNothing(t *testing.T) {
	dir, path := onePage(t)
	b := measure(t, dir, tree.Options{}).Binding
	if _, err := os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadDir(dir); err != nil {
		t.Fatal(err)
	}
	measure(t, dir, tree.Options{})
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	dir, _ := onePage(t)
	b := measure(t, dir, tree.Options{}).Binding
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("check: %v", err)
	}
	if _, err := tree.Measure(ctx, dir, tree.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("measure: %v", err)
	}
}

// The tree, its files and its goroutines are given back.
func TestNothingLeaks(t *testing.T) {
	dir, _ := sample(t)
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	measure(t, dir, tree.Options{})
	fds, routines := count(), runtime.NumGoroutine()
	for range 20 {
		b := measure(t, dir, tree.Options{Progress: func(int64, int64) {}}).Binding
		if err := b.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(); n > fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
	for range 10_000 {
		if runtime.NumGoroutine() <= routines {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), routines)
}
