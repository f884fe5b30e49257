// Package layout holds no code. Its test keeps the rooms of the design apart:
// who may import whom. The linter has the same rules; this runs where the
// linter is not at hand.
package layout

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module     = "github.com/sealift/sealift"
	containerd = "github.com/containerd/containerd/"
)

// top are the rooms nothing imports but the commands.
var top = []string{"shim", "agent", "cli"}

// mayUseContainerd are the rooms that import containerd; the others can be used,
// and tested, without it.
var mayUseContainerd = []string{"shim", "runtime", "agent", "integration"}

// lower are the rooms that know only some of the others; a room may always
// import itself.
var lower = map[string][]string{
	"attest":   {"measure", "policy", "internal"},
	"measure":  {"policy", "api", "internal"},
	"policy":   {"internal"},
	"internal": {},
}

// mayUseAttest are the rooms that import attest: what starts containers does
// not carry what proves them to strangers.
var mayUseAttest = []string{"attest", "agent", "cli", "integration"}

// meaningless are names that say nothing of what is inside.
var meaningless = []string{"pkg", "util", "utils", "common", "helpers", "misc"}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func room(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	return first
}

func TestRoomsStayApart(t *testing.T) {
	packages := list(t)
	for _, p := range packages {
		if slices.Contains(meaningless, path.Base(p.ImportPath)) {
			t.Errorf("%s: a package's name says what is inside", p.ImportPath)
		}
		for _, problem := range broken(p) {
			t.Error(problem)
		}
	}
}

func TestRulesCanFail(t *testing.T) {
	for _, p := range []goPackage{
		{module + "/measure/layer", []string{module + "/agent"}},
		{module + "/runtime", []string{module + "/shim/start"}},
		{module + "/agent", []string{module + "/cli"}},
		{module + "/policy", []string{containerd + "v2/client"}},
		{module + "/cli", []string{module + "/integration/host"}},
		{module + "/attest/verify", []string{containerd + "v2/client"}},
		{module + "/attest/watch", []string{module + "/agent"}},
		{module + "/attest/key", []string{module + "/api/node"}},
		{module + "/measure/eventlog", []string{module + "/attest/evidence"}},
		{module + "/policy", []string{module + "/attest/trust"}},
		{module + "/runtime", []string{module + "/attest/key"}},
		{module + "/internal/durable", []string{module + "/measure/tpm"}},
	} {
		if len(broken(p)) != 1 {
			t.Errorf("%s importing %s: let through", p.ImportPath, p.Imports)
		}
	}
}

func broken(p goPackage) []string {
	var found []string
	from := room(p.ImportPath)
	for _, i := range p.Imports {
		to := room(i)
		switch {
		case slices.Contains(top, to) && to != from && from != "cmd":
			found = append(found, p.ImportPath+" imports "+i+": only commands import "+to)
		case to == "integration" && from != "integration" && !strings.HasSuffix(p.ImportPath, "test"):
			found = append(found, p.ImportPath+" imports "+i+": what ships does not import tests")
		case strings.HasPrefix(i, containerd) && !slices.Contains(mayUseContainerd, from):
			found = append(found, p.ImportPath+" imports "+i+": only shim, runtime and agent know containerd")
		case to == "attest" && !slices.Contains(mayUseAttest, from):
			found = append(found, p.ImportPath+" imports "+i+": only agent and cli import attest")
		case to != "" && to != from && to != "integration" && limited(from) && !slices.Contains(lower[from], to):
			found = append(found, p.ImportPath+" imports "+i+": "+from+" imports only "+strings.Join(lower[from], ", "))
		}
	}
	return found
}

func limited(room string) bool {
	_, ok := lower[room]
	return ok
}

var skipping = regexp.MustCompile(`\b[a-z]+\.(Skip|Skipf|SkipNow)\(`)

// TestSkipsAreDeclared: package skip is the one way to skip, by the type of an
// error, so that the suite knows every skip there can be.
func TestSkipsAreDeclared(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		if e.IsDir() && (rel == "build" || rel == ".git" || rel == "integration/skip") {
			return fs.SkipDir
		}
		if filepath.Ext(file) != ".go" {
			return nil
		}
		files++
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for n, line := range strings.Split(string(b), "\n") {
			if skipping.MatchString(line) && rel != "integration/layout/layout_test.go" {
				t.Errorf("%s:%d: %s: skips go through integration/skip", rel, n+1, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil || files < 100 {
		t.Fatalf("%d files: %v", files, err)
	}
	for line, want := range map[string]bool{"t.Skip(err)": true, `b.Skipf("x")`: true, "tb.SkipNow()": true, "skip.On(t, err)": false, "fs.SkipDir": false} {
		if skipping.MatchString(line) != want {
			t.Errorf("%q: found %t", line, !want)
		}
	}
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(out); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil || len(all) < 3 {
		t.Fatalf("go list: %d packages, %v", len(all), err)
	}
	return all
}
