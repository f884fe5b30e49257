package vm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/integration/vm"
)

const motd = "an ordinary container\n"

// machine is a node that a test looks at.
type machine struct {
	*vm.Node
	t *testing.T
}

// long skips a test that `make test` has no time for.
func long(t *testing.T) { t.Helper(); skip.On(t, skip.NeedTarget("vm")) }

// newMachine makes a node with the tiny image imported, and ends it with the
// test.
func newMachine(t *testing.T, o vm.NodeOptions) machine {
	t.Helper()
	ctx := t.Context()
	tiny, err := made.Image(ctx, "tiny", image.Tiny)
	skip.On(t, err)
	o.Images = append(o.Images, tiny)
	n, err := vm.NewNode(ctx, o)
	skip.On(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			n.DumpLogs(context.Background(), t.Output())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	m := machine{n, t}
	if err := n.Import(ctx, tiny); err != nil {
		t.Fatal(err)
	}
	return m
}

// shell runs a script and logs how long it took: where a slow machine's time
// went is the first thing to know when it took too much.
func (m machine) shell(script string) (string, error) {
	start := time.Now()
	out, err := m.Shell(m.t.Context(), script)
	m.t.Logf("%5.1fs %s", time.Since(start).Seconds(), script)
	return out, err
}

// sh runs a script that must succeed and returns its output without white space
// at the ends.
func (m machine) sh(format string, args ...any) string {
	m.t.Helper()
	out, err := m.shell(fmt.Sprintf(format, args...))
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// start runs a container that says its motd and returns what ctr wrote, and
// whether it ended well. An agent that is slower than the shim waits counts as
// absent, and on a machine that is twenty times too slow it sometimes is: such a
// start is tried again.
func (m machine) start(id, more string) (string, bool) {
	m.t.Helper()
	for try := 1; ; try++ {
		out, err := m.shell("ctr run --rm --runtime " + node.Sealift + " " + more + " " + image.TinyName + " " + id + " cat /etc/motd")
		var exit *vm.ExitError
		switch {
		case err == nil:
			return out, true
		case !errors.As(err, &exit):
			m.t.Fatal(err)
		case try == 4 || !strings.Contains(exit.Output(), "deadline exceeded") && !strings.Contains(exit.Output(), "stopped answering"):
			return exit.Output(), false
		}
	}
}

// runs starts a container that must run.
func (m machine) runs(id string) {
	m.t.Helper()
	if out, ok := m.start(id, ""); !ok || out != motd {
		m.t.Fatalf("container %s says %q", id, out)
	}
}

// refused starts a container that must be refused, for all of the reasons.
func (m machine) refused(id string, reasons ...string) {
	m.t.Helper()
	out, ok := m.start(id, "")
	if ok || strings.Contains(strings.ToLower(out), "ordinary container") {
		m.t.Fatalf("container %s was not refused:\n%s", id, out)
	}
	for _, r := range append(reasons, "hint:") {
		if !strings.Contains(out, r) {
			m.t.Errorf("container %s: the refusal does not say %q:\n%s", id, r, out)
		}
	}
}

type status struct {
	TPM struct {
		Device, Class string
		Values        map[string]string
	}
	Log struct {
		State, Epoch, Reason, Hint string
	}
	Containers []struct{ ID, State, Binding string }
}

// status ends with status 1 where starts are refused, and is JSON all the same.
func (m machine) status() status {
	m.t.Helper()
	var s status
	out := m.sh("sealift status --json || [ $? = 1 ]")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	return s
}

// pcr reads PCR 13 with somebody else's tool.
func (m machine) pcr() string {
	m.t.Helper()
	_, v, ok := strings.Cut(m.sh("tpm2_pcrread -T device:/dev/tpmrm0 sha256:13"), "0x")
	if !ok || len(v) != 64 {
		m.t.Fatalf("PCR 13 is %q", v)
	}
	return strings.ToLower(v)
}

// proven replays the log against what tpm2_pcrread says, not against what the
// agent says.
func (m machine) proven() {
	m.t.Helper()
	v := m.pcr()
	out := m.sh("sealift log --verify --value sha256:%s", v)
	if strings.Trim(v, "0") == "" || !strings.Contains(out, v) {
		m.t.Errorf("PCR 13 is %s, the replay says:\n%s", v, out)
	}
}
