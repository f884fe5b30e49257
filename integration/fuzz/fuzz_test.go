// Package fuzz holds no code. Its test runs every fuzz target there is, for
// make test-long: `go test` alone only runs their seeds.
package fuzz

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/sealift/sealift/integration/skip"
)

const (
	module = "github.com/sealift/sealift"
	// timeEnv says how long each target runs.
	timeEnv     = "SEALIFT_FUZZ_TIME"
	defaultTime = 5 * time.Minute
	// patience is what a target gets beyond its time: its build, its seeds, its end.
	patience = 10 * time.Minute
)

// target is one fuzz target and what became of it.
type target struct {
	Package, Name string

	executions, inputs int
	result             string
}

// TestEveryFuzzTarget runs them one after the other and fails with those that
// found something, or that never came to try an input of their own. The table
// is in build/fuzz as well: of a test that passed nobody sees the log.
func TestEveryFuzzTarget(t *testing.T) {
	skip.On(t, skip.NeedTarget("long"))
	span := defaultTime
	if s := os.Getenv(timeEnv); s != "" {
		var err error
		if span, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s: %v", timeEnv, err)
		}
	}
	targets := list(t)
	for _, f := range targets {
		t.Run(strings.TrimPrefix(f.Package, module+"/")+"/"+f.Name, func(t *testing.T) { f.run(t, span) })
	}
	report(t, targets)
}

// list asks the test binaries themselves, so that no target can be forgotten.
func list(t *testing.T) []*target {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-list", "^Fuzz", module+"/...")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go test -list: %v\n%s", err, out)
	}
	targets, err := parseList(out)
	if err != nil || len(targets) == 0 {
		t.Fatalf("%d targets: %v", len(targets), err)
	}
	return targets
}

var targetName = regexp.MustCompile(`^Fuzz\w*$`)

// parseList reads what `go test -json -list` writes.
func parseList(out []byte) ([]*target, error) {
	var targets []*target
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var e struct{ Action, Package, Output string }
		if err := dec.Decode(&e); err != nil {
			return nil, fmt.Errorf("go test -list: %w", err)
		}
		if name := strings.TrimSpace(e.Output); e.Action == "output" && targetName.MatchString(name) {
			targets = append(targets, &target{Package: e.Package, Name: name, result: "not run"})
		}
	}
	slices.SortFunc(targets, func(a, b *target) int {
		return strings.Compare(a.Package+" "+a.Name, b.Package+" "+b.Name)
	})
	return targets, nil
}

func (f *target) run(t *testing.T, span time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), span+patience)
	defer cancel()
	// Minimizing an input that is merely new can eat all the time there is.
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+f.Name+"$",
		"-fuzztime", span.String(), "-fuzzminimizetime", "1x", "-timeout", "0", f.Package)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	f.read(out)
	switch {
	case ctx.Err() != nil:
		f.result = "did not end"
		t.Errorf("did not end within %s of its time\n%s", patience, out)
	case err != nil:
		f.result = "FAILED"
		t.Errorf("%v\n%s", err, out)
	case f.executions == 0:
		f.result = "tried nothing"
		t.Errorf("ended before it tried anything\nhint: give %s more than %s\n%s", timeEnv, span, out)
	default:
		f.result = "ok"
	}
}

var progress = regexp.MustCompile(`^fuzz: elapsed: .*, execs: (\d+) .*, new interesting: (\d+) `)

// read takes the last count out of what the fuzzing engine says of itself.
func (f *target) read(out []byte) {
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		m := progress.FindStringSubmatch(sc.Text())
		if m == nil {
			continue
		}
		executions, err1 := strconv.Atoi(m[1])
		inputs, err2 := strconv.Atoi(m[2])
		if errors.Join(err1, err2) == nil {
			f.executions, f.inputs = executions, inputs
		}
	}
}

func table(targets []*target) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "target\texecutions\tnew inputs\tresult")
	for _, f := range targets {
		fmt.Fprintf(w, "%s %s\t%d\t%d\t%s\n", strings.TrimPrefix(f.Package, module+"/"), f.Name, f.executions, f.inputs, f.result)
	}
	w.Flush() // into memory
	return b.String()
}

func report(t *testing.T, targets []*target) {
	t.Helper()
	text := table(targets)
	t.Logf("\n%s", text)
	dir := filepath.Join("..", "..", "build", "fuzz")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "targets.txt"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestListIsRead(t *testing.T) {
	got, err := parseList([]byte(`{"Action":"start","Package":"m/b"}
{"Action":"output","Package":"m/b","Output":"FuzzTwo\n"}
{"Action":"output","Package":"m/b","Output":"ok  \tm/b\t0.010s\n"}
{"Action":"output","Package":"m/a","Output":"FuzzOne\n"}
{"Action":"output","Package":"m/c","Output":"?   \tm/c\t[no test files]\n"}
`))
	if err != nil || len(got) != 2 || got[0].Package != "m/a" || got[0].Name != "FuzzOne" || got[1].Name != "FuzzTwo" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseList([]byte("{")); err == nil {
		t.Error("half a line: no error")
	}
}

func TestProgressIsRead(t *testing.T) {
	for _, c := range []struct {
		out                string
		executions, inputs int
	}{
		{"fuzz: elapsed: 0s, gathering baseline coverage: 0/135 completed\n", 0, 0},
		{"fuzz: elapsed: 3s, execs: 7302 (2425/sec), new interesting: 13 (total: 148)\nfuzz: elapsed: 6s, execs: 9000 (0/sec), new interesting: 15 (total: 150)\nPASS\n", 9000, 15},
	} {
		var f target
		if f.read([]byte(c.out)); f.executions != c.executions || f.inputs != c.inputs {
			t.Errorf("%q: %d executions, %d inputs", c.out, f.executions, f.inputs)
		}
	}
}
