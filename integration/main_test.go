// Package integration has the tests that need a node: a containerd, a TPM, the
// agent and the shim in a test host.
package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
)

func TestMain(m *testing.M) {
	host.Reexec()
	os.Exit(m.Run())
}

// newNode makes a node with the tiny image and the driver on it, which ends with
// the test. A failed test shows the daemons' logs.
func newNode(t *testing.T, o node.Options) *node.Node {
	t.Helper()
	n, err := node.New(t.Context(), o)
	skip.On(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			n.DumpLogs(t.Output())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	tiny, err := made.Image(t.Context(), "tiny", image.Tiny)
	skip.On(t, err)
	if err := n.Import(t.Context(), tiny); err != nil {
		t.Fatal(err)
	}
	if err := n.InstallTool(t.Context(), "driver"); err != nil {
		t.Fatal(err)
	}
	return n
}

// patience bounds one command inside, and what is waited for: only what never
// happens takes as long, on however busy a machine.
const patience = 2 * time.Minute

// runtime is one way to name a runtime: as ctr takes it, and as a client that
// sets runtime_path does.
type runtime struct {
	name string
	// ctr is the argument of --runtime.
	ctr string
	// driver are the driver's flags.
	driver []string
}

var (
	stock = runtime{"stock", node.Stock, []string{"-runtime", node.Stock}}
	// byName is runtime_type = "io.containerd.sealift.v2".
	byName = runtime{"by-name", node.Sealift, []string{"-runtime", node.Sealift}}
	// byPath is runtime_type = "io.containerd.runc.v2" with runtime_path.
	byPath = runtime{"by-path", node.SealiftPath, []string{"-runtime", node.Stock, "-runtime-path", node.SealiftPath}}
)

// subject is a node and the runtime under test on it.
type subject struct {
	*node.Node
	runtime
	t *testing.T
}

// sh runs a script inside and fails the test when it fails.
func (s subject) sh(format string, args ...any) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	out, err := s.Shell(ctx, fmt.Sprintf(format, args...))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// said is sh for a container that ends as soon as it has said something. ctr now
// and then loses all of what such a one wrote, where it had not opened its pipes
// by then, with the stock shim too: then it is run anew.
func (s subject) said(format string, args ...any) (out string) {
	s.t.Helper()
	for range 5 {
		if out = s.sh(format, args...); out != "" {
			break
		}
	}
	return out
}

// create starts a container that stays and returns its pid. Further arguments
// are the driver's.
func (s subject) create(id string, args ...string) string {
	s.t.Helper()
	out, err := s.tryCreate(id, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (s subject) tryCreate(id string, args ...string) (string, error) {
	s.t.Helper()
	line := append([]string{"driver", "create", "-id", id, "-image", image.TinyName}, s.driver...)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	return s.Run(ctx, append(line, args...)...)
}

// remove ends and deletes a container that create made.
func (s subject) remove(id string) {
	s.t.Helper()
	s.sh("ctr task kill -s KILL %[1]s; ctr task delete %[1]s >/dev/null 2>&1 || ctr task delete --force %[1]s; ctr container delete %[1]s", id)
}

// eventually waits until a script inside succeeds.
func (s subject) eventually(what, format string, args ...any) {
	s.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err = s.Shell(s.t.Context(), fmt.Sprintf(format, args...)); err == nil {
			return
		}
	}
	s.t.Fatalf("%s: %v", what, err)
}
