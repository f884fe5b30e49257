// Package layout holds no code. Its test keeps the rooms of the design apart:
// who may import whom. The linter has the same rules; this runs where the
// linter is not at hand.
package layout

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
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
		case to == "integration" && from != "integration":
			found = append(found, p.ImportPath+" imports "+i+": what ships does not import tests")
		case strings.HasPrefix(i, containerd) && !slices.Contains(mayUseContainerd, from):
			found = append(found, p.ImportPath+" imports "+i+": only shim, runtime and agent know containerd")
		}
	}
	return found
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
