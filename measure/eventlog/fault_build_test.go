//go:build !faults

package eventlog_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// The tests behind the build tag "faults" run with every ordinary run too.
func TestWithFaultPoints(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "faults.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "faults", "-o", binary, ".").CombinedOutput(); err != nil {
		swtpmtest.SkipMissing(t, err)
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(binary, "-test.v", "-test.run", "^(TestFailingPoints|TestKilledAtPoints)$").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("\n--- SKIP: ")) {
		skip.On(t, os.ErrPermission) // the only type of error those skip on
	}
	if n := bytes.Count(out, []byte("\n--- PASS: ")); n != 2 {
		t.Errorf("%d of 2 tests passed: %s", n, out)
	}
}
