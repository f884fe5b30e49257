package shim

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-00764000 r-xp 00000000 fe:00 99 /usr/local/bin/shim
Rss:                3344 kB
Private_Dirty:         0 kB
VmFlags: rd ex mr mw me
00764000-00b87000 r--p 00364000 fe:00 99 /usr/local/bin/shim
Private_Dirty:        12 kB
00b87000-00bbc000 rw-p 00787000 fe:00 99 /usr/local/bin/shim
Private_Dirty:         0 kB
00c87000-00cbc000 r--p 00787000 fe:00 98 /usr/lib/libc.so
Private_Dirty:         0 kB
3215d6000000-3215d6800000 r--p 00000000 00:00 0
Private_Dirty:         0 kB
7ffd1f5c8000-7ffd1f5e9000 r--p 00000000 00:00 0 [stack]
Private_Dirty:         0 kB
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
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// Without swap, pages of a program in memory have nowhere else to be.
	var fs unix.Statfs_t
	if err := unix.Statfs(exe, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		skip.On(t, fmt.Errorf("the test's own program is on tmpfs: %w", errors.ErrUnsupported))
	}
	// A program that was linked this second is dirty in the page cache, which looks
	// like having been written to.
	f, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	resident := func() (kib int) {
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
	before := resident()
	if err := releaseCode(); err != nil {
		t.Fatal(err)
	}
	if after := resident(); after > before*3/4 {
		t.Errorf("%d KiB of %d are mapped still", after, before)
	}
}
