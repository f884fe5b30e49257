package layer_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestApplyOracle runs the comparison with containerd's own unpackers, which
// lives in a module of its own so that this one does not depend on containerd
// 1.7. SEALIFT_TEST=long takes twenty times as many tars.
func TestApplyOracle(t *testing.T) {
	tars := "1500"
	if os.Getenv("SEALIFT_TEST") == "long" {
		tars = "30000"
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-v", "-timeout", "10h", "./...", "-tars", tars)
	cmd.Dir = "../../integration/applyoracle"
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if err != nil || strings.Contains(line, "_test.go:") || strings.HasPrefix(strings.TrimSpace(line), "--- ") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if err != nil {
		t.Error(err)
	}
}
