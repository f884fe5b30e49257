package shim

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// quiet is how long after its start a container is left alone before the shim
// tidies up: by then its client has gone on to other things.
const quiet = time.Second

// releaseMemory gives back what creating a container took. There is one shim a
// pod, which from here on mostly waits: what each keeps for nothing is kept a
// hundred times on a node.
func releaseMemory() {
	time.AfterFunc(quiet, func() {
		if err := releaseCode(); err != nil {
			log.G(context.Background()).WithError(err).Warn("memory of start-up code is kept")
		}
		debug.FreeOSMemory()
	})
}

// releaseCode unmaps the pages of the shim's own program, most of which is code
// and tables of the start that is over. They stay in the page cache, shared by
// all shims, and what is wanted again is mapped again when it is touched
// (madvise(2), MADV_DONTNEED).
func releaseCode() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close() // read only
	clean, err := cleanMappings(f, exe)
	if err != nil {
		return err
	}
	for _, m := range clean {
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); e != 0 {
			return os.NewSyscallError("madvise", e)
		}
	}
	return nil
}

type mapping struct{ start, end uintptr }

// cleanMappings lists the mappings of a file that nothing was ever written to:
// neither now writable, nor with a page that differs from the file's, as
// relocations make them. Only these come back as they were.
func cleanMappings(smaps io.Reader, file string) ([]mapping, error) {
	var out []mapping
	var m *mapping
	s := bufio.NewScanner(smaps)
	for s.Scan() {
		line := s.Bytes()
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && !bytes.ContainsAny(key, " -") {
			if m != nil && string(key) == "Private_Dirty" && string(bytes.TrimSpace(value)) == "0 kB" {
				out = append(out, *m)
			}
			continue
		}
		m = nil
		var start, end uintptr
		var perms string
		if _, err := fmt.Sscanf(string(line), "%x-%x %s", &start, &end, &perms); err != nil {
			return nil, fmt.Errorf("/proc/self/smaps: line %q: %w", line, err)
		}
		if strings.HasSuffix(string(line), " "+file) && !strings.Contains(perms, "w") {
			m = &mapping{start, end}
		}
	}
	return out, s.Err()
}
