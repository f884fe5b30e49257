package integration

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
)

// extendCommand is the head of a TPM2_PCR_Extend on its way to the TPM: the tag
// TPM_ST_SESSIONS, a size, the command code (TCG TPM 2.0 Part 2, 6.5.2 and 6.9).
var extendCommand = regexp.MustCompile(`"\\x80\\x02(?:\\x[0-9a-f]{2}){4}\\x00\\x00\\x01\\x82`)

// logFile is the head of the log's path as strace -xx writes it.
var logFile = hexText("/var/lib/sealift/log/epochs/")

func hexText(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}

// TestWriteComesBeforeExtend looks at the agent's system calls while containers
// start: what a batch says is in the log's file before the TPM hears of it.
func TestWriteComesBeforeExtend(t *testing.T) {
	ctx := t.Context()
	n, err := node.New(ctx, node.Options{Name: "strace"})
	skip.On(t, err)
	defer func() {
		if t.Failed() {
			n.DumpLogs(t.Output())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	tiny, err := made.Image(ctx, "tiny", image.Tiny)
	skip.On(t, err)
	if err := n.Import(ctx, tiny); err != nil {
		t.Fatal(err)
	}
	out, err := n.Shell(ctx, `
strace -f -y -xx -s 16 -e trace=write,pwrite64,writev,sendto -o /srv/trace -p $(pgrep -x sealiftd) 2>/srv/strace.err &
tracer=$!
for i in $(seq 600); do grep -q attached /srv/strace.err && break; sleep 0.1; done
for i in 1 2 3; do ctr run --rm --runtime `+node.Sealift+` `+image.TinyName+` c$i true; done
for i in $(seq 600); do sealift log default/c3 | grep -q ' deleted ' && break; sleep 0.1; done
kill $tracer; wait $tracer || true
cat /srv/trace`)
	if err != nil {
		t.Fatal(err, out)
	}
	extends, written := 0, false
	for line := range strings.SplitSeq(out, "\n") {
		switch {
		case strings.Contains(line, logFile):
			written = true
		case extendCommand.MatchString(line):
			extends++
			if !written {
				t.Errorf("extend %d was sent before its batch was written: %s", extends, line)
			}
			written = false // the next one needs a write of its own
		}
	}
	// Each container is launched, started, exited and deleted.
	if extends < 6 {
		t.Errorf("only %d extends were seen: does strace see the TPM's socket?\n%s", extends, out)
	}
}
