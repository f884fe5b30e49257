package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-00764000 r-xp 00000000 fe:00 99 /usr/local/bin/shim
Rss:                3344 kB
Anonymous:             0 kB
Private_Dirty:      3344 kB
VmFlags: rd ex mr mw me
00764000-00b87000 r--p 00364000 fe:00 99 /usr/local/bin/shim
Anonymous:            12 kB
00b87000-00bbc000 rw-p 00787000 fe:00 99 /usr/local/bin/shim
Anonymous:             0 kB
00c87000-00cbc000 r--p 00787000 fe:00 98 /usr/lib/libc.so
Anonymous:             0 kB
3215d6000000-3215d6800000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffd1f5c8000-7ffd1f5e9000 r--p 00000000 00:00 0 [stack]
Anonymous:             0 kB
`
	got, err := cleanMappings(strings.NewReader(smaps), "/usr/local/bin/shim")
	if err != nil {
		t.Fatal(err)
	}
	// Not what was relocated, not what can be written, not what is another's.
	if want := []mapping{{0x400000, 0x764000}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%x, wanted %x", got, want)
	}
}

// What runs goes on running, and its pages are gone until they are wanted again.
func TestReleaseCode(t *testing.T) {
	exe := program(t)
	before := mapped(t, exe)
	if err := releaseCode(); err != nil {
		t.Fatal(err)
	}
	if after := mapped(t, exe); after > before*3/4 {
		t.Errorf("%d KiB of %d are mapped still", after, before)
	}
}

// mapped is how many KiB of a file are in memory as this process's.
func mapped(t *testing.T, exe string) (kib int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.Contains(f[0], "-") {
			ours = strings.HasSuffix(line, " "+exe+"\n")
		} else if ours && f[0] == "Rss:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			kib += n
		}
	}
	return kib
}

// program is the test's own, where its pages can be somewhere else than in memory.
func program(t *testing.T) string {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// Without swap, pages of a program on tmpfs have nowhere else to be.
	var fs unix.Statfs_t
	if err := unix.Statfs(exe, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		skip.On(t, fmt.Errorf("the test's own program is on tmpfs: %w", errors.ErrUnsupported))
	}
	// All of it is there to begin with.
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	clean, err := cleanMappings(f, exe)
	if err != nil || len(clean) == 0 {
		t.Fatalf("mappings of %s: %v, %v", exe, clean, err)
	}
	for _, m := range clean {
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_POPULATE_READ); e != 0 {
			t.Fatal(os.NewSyscallError("madvise", e))
		}
	}
	return exe
}

// A shim that was called, and not again for a while, gives back what the call
// needed.
func TestIdle(t *testing.T) {
	exe := program(t)
	s := &service{}
	call := s.UnaryServerInterceptor()
	before := mapped(t, exe)
	want := errors.New("what the method says")
	if _, err := call(t.Context(), nil, nil, func(context.Context, func(any) error) (any, error) { return nil, want }); !errors.Is(err, want) {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(quiet) {
		after := mapped(t, exe)
		if after <= before*3/4 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d KiB of %d are mapped still", after, before)
		}
	}
}
