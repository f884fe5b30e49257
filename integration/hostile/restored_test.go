package hostile_test

import (
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

// TestRestoredPeer enters the host's namespaces from a container that was
// restored from a checkpoint, so that nothing but its cgroup tells what it is.
func TestRestoredPeer(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "restored"})
	if _, err := s.Import(t.Context(), "default", overlayfs, s.Image); err != nil {
		t.Fatal(err)
	}
	sh := func(script string) {
		t.Helper()
		if _, err := s.Shell(patient(t), script); err != nil {
			t.Fatal(err)
		}
	}
	sh(dump("moved", "--privileged --with-ns pid:/proc/1/ns/pid --runtime "+node.Sealift))
	sh("ctr container restore --live --rw moved checkpoint/moved </dev/null >/dev/null 2>&1; ctr task ls | grep -q 'moved.*RUNNING'")
	out, err := s.Node.Run(t.Context(), "ctr", "task", "exec", "--exec-id", "entered", "moved", "/bin/busybox", "nsenter",
		"-t", "1", "-m", "--", tamper.ProbeAsShim, "try")
	if err == nil || strings.Contains(out, "let in") {
		t.Errorf("let in: %s", out)
	}
	turnedAway(t, s, tamper.ProbeAsShim, "cgroup of container default/moved")
}
