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
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// quiet is how long a shim is left alone before it tidies up: by then whoever
// called it has gone on to other things.
const quiet = time.Second

// memory gives back what waiting does not need. There is one shim a pod, which
// mostly waits: what each keeps for nothing is kept a hundred times on a node.
type memory struct {
	mu    sync.Mutex
	timer *time.Timer
	// heap is set when there is heap to give back.
	heap bool
}

// started tells that a container was started: what creating it took is free.
func (m *memory) started() {
	m.mu.Lock()
	m.heap = true
	m.mu.Unlock()
	m.used()
}

// used tells that the shim was called.
func (m *memory) used() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer == nil {
		m.timer = time.AfterFunc(quiet, m.release)
		return
	}
	m.timer.Reset(quiet)
}

func (m *memory) release() {
	m.mu.Lock()
	heap := m.heap
	m.heap = false
	m.mu.Unlock()
	if heap {
		debug.FreeOSMemory()
	}
	// After the collector, whose code is wanted again only then.
	if err := releaseCode(); err != nil {
		log.G(context.Background()).WithError(err).Warn("memory of code that is not used is kept")
	}
}

// UnaryServerInterceptor sees every call of the task API.
func (s *service) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, u ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, m ttrpc.Method) (any, error) {
		defer s.memory.used()
		return m(ctx, u)
	}
}

// releaseCode unmaps the pages of the shim's own program, most of which is code
// and tables of what is over. They stay in the page cache, shared by
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
// relocations make them: that is anonymous memory. Only these come back as they
// were. A file just installed is dirty in the page cache and not on that account
// different (proc_pid_smaps(5)).
func cleanMappings(smaps io.Reader, file string) ([]mapping, error) {
	var out []mapping
	var m *mapping
	s := bufio.NewScanner(smaps)
	for s.Scan() {
		line := s.Bytes()
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && !bytes.ContainsAny(key, " -") {
			if m != nil && string(key) == "Anonymous" && string(bytes.TrimSpace(value)) == "0 kB" {
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
