package doctor

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDiscards(t *testing.T) {
	for text, want := range map[string]bool{
		"    discard_unpacked_layers = true\n":                    true,
		"a = 1\n  discard_unpacked_layers=true # c\n":             true,
		"    discard_unpacked_layers = false\n":                   false,
		"# discard_unpacked_layers = true\n":                      false,
		"unix:/proc/1/exe: exit status 1":                         false,
		"discard_unpacked_layers_and_more = true\n":               false,
		"[plugins.cri]\nx = \"discard_unpacked_layers = true\"\n": false,
	} {
		if discards(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}

// The process behind a socket is found without being asked; here it is this one.
func TestListener(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pid, err := listener(t.Context(), socket)
	if err != nil || int(pid) != os.Getpid() {
		t.Errorf("pid %d, %v; want %d", pid, err, os.Getpid())
	}
	// What is not containerd is not run.
	if r := daemon(t.Context(), socket, pid); r.State != Note || !strings.Contains(r.Detail, "is served by") {
		t.Errorf("%+v", r)
	}
}

// What is missing is never called healthy.
func TestHealthy(t *testing.T) {
	all := []State{Good, Note, Absent, Unknown}
	var results []Result
	for _, s := range all {
		results = append(results, Result{State: s})
	}
	if !Healthy(results) {
		t.Error("nothing required is missing")
	}
	if Healthy(append(results, Result{State: Missing})) {
		t.Error("something required is missing")
	}
}
