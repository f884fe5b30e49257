package cli

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// register is a TPM of one PCR in memory.
type register struct {
	mu sync.Mutex
	v  tpm.Values
}

var _ tpm.Device = (*register)(nil)

func newRegister() *register { return &register{v: tpm.Zero([]tpm.Bank{tpm.SHA256})} }

func (r *register) Path() string      { return "memory" }
func (r *register) Class() tpm.Class  { return tpm.Software }
func (r *register) Banks() []tpm.Bank { return []tpm.Bank{tpm.SHA256} }
func (r *register) Close() error      { return nil }

func (r *register) ReadPCR(context.Context, int) (tpm.Values, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.v), nil
}

func (r *register) Extend(_ context.Context, _ int, digests tpm.Values) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.v = r.v.Extended(digests)
	return nil
}

func (r *register) Properties(context.Context) (tpm.Properties, error) {
	return tpm.Properties{Manufacturer: "MEM", Safe: true}, nil
}

// writeLog writes a small log in dir: one start, one refusal, one exit, and
// what the node says of itself.
func writeLog(ctx context.Context, dir string, d tpm.Device) error {
	l, err := eventlog.Open(ctx, eventlog.Config{Dir: dir, Device: d, PCR: 13, BootID: "boot", Instance: "host", Watch: -1})
	if err != nil {
		return err
	}
	type img struct {
		Name     string `json:"name"`
		Manifest string `json:"manifest"`
	}
	type reason struct {
		Code    string `json:"code"`
		Layer   string `json:"layer"`
		Path    string `json:"path"`
		Message string `json:"message"`
		Wanted  string `json:"wanted"`
		Found   string `json:"found"`
	}
	type root struct {
		Class  string     `json:"class"`
		Layers []struct{} `json:"layers"`
	}
	type body struct {
		Image   *img     `json:"image"`
		Root    root     `json:"root"`
		Reasons []reason `json:"reasons,omitempty"`
	}
	type named struct {
		Name string `json:"name"`
	}
	type census struct {
		Launched  int     `json:"launched"`
		Bypassing []named `json:"bypassing,omitempty"`
	}
	type start struct {
		Build    string  `json:"build"`
		Vouched  string  `json:"vouched"`
		Policies []named `json:"policies,omitempty"`
	}
	web := &img{"web:1", "sha256:" + strings.Repeat("ab", 32)}
	for _, e := range []eventlog.Event{
		{Type: "launch", Namespace: "default", Container: "web", Start: true, Body: body{Image: web, Root: root{"tree", make([]struct{}, 2)}}, Salted: map[string][]byte{"spec": []byte("secret")}},
		{Type: "refusal", Namespace: "lab", Container: "bad\x1b[2J", Reserved: true, Body: body{Image: web, Reasons: []reason{{"layer-content", "sha256:01", "bin/sh", "content", "aa", "bb"}}}},
		{Type: "exit", Namespace: "default", Container: "web", Reserved: true, Body: struct {
			Status uint32 `json:"status"`
		}{7}},
		{Type: "agent-start", Body: start{"v1", "self-reported", []named{{"base"}}}},
		{Type: "policy", Body: start{}},
		{Type: "census", Body: census{3, make([]named, 1)}},
		{Type: "novel", Body: named{"something"}},
	} {
		if _, err := l.Append(ctx, e); err != nil {
			return err
		}
	}
	return l.Close()
}

// makeLog DIR writes a log, and beside it DIR.value: --value for the PCR.
func makeLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: makelog DIR")
	}
	r := newRegister()
	ts.Check(writeLog(context.Background(), ts.MkAbs(args[0]), r))
	ts.Setenv("VALUE", fmt.Sprintf("sha256:%x", r.v[tpm.SHA256]))
}

// The value that --verify compares with is the TPM's own, read by the command
// itself.
func TestVerifyReadsTheTPM(t *testing.T) {
	x := swtpmtest.Start(t)
	d, err := tpm.Open(t.Context(), x.Device())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "log")
	if err := writeLog(t.Context(), dir, d); err != nil {
		t.Fatal(err)
	}
	verify := func(want int, text string) {
		t.Helper()
		var out, errs bytes.Buffer
		code := Main([]string{"log", "--verify", "--dir", dir, "--tpm", x.Device()}, os.Stdin, &out, &errs)
		if code != want || !strings.Contains(out.String(), text) {
			t.Errorf("status %d, %s%s", code, &out, &errs)
		}
	}
	verify(OK, "proven: the value follows from the log, records 1 to 8")
	if err := d.Extend(t.Context(), 13, tpm.HashAll(d.Banks(), []byte("somebody else"))); err != nil {
		t.Fatal(err)
	}
	verify(No, "not proven: the TPM's value is at no place of the log")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	x.Kill()
	var out, errs bytes.Buffer
	if code := Main([]string{"log", "--verify", "--dir", dir, "--tpm", x.Device()}, os.Stdin, &out, &errs); code != Failed || out.Len() != 0 {
		t.Errorf("dead TPM: status %d, %s%s", code, &out, &errs)
	}
}
