package verify_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/verify"
)

// A container that has ended was started all the same: what it was of counts
// until the log ends, and in what a checkpoint remembers.
func TestEndedContainersCount(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		id := fmt.Sprint("good", i)
		w.host.launch("default", id)
		w.host.add("exit", "default", id, raw("{}"))
		w.host.add("deleted", "default", id, raw("{}"))
	}
	first := w.trusted(w.host.evidence(ask{nonce: nonce}))
	count := uint64(0)
	for _, c := range first.Containers {
		if c.State == "deleted" {
			count += c.Count
		}
	}
	if count != 3 {
		t.Errorf("%d ended containers are told, want 3: %+v", count, first.Containers)
	}
	w.host.add("launch", "default", "evil", raw(`{"image":{"name":"evil","manifest":"sha256:%s"},"root":{"class":"blob"},"policy":{"digest":"sha256:p","content":"enforce"}}`, strings.Repeat("e", 64)))
	w.host.add("deleted", "default", "evil", raw("{}"))
	b := w.host.evidence(ask{nonce: nonce})
	refused(t, w.appraise(b), "image")

	// The same over a checkpoint from before, and over one from after.
	in := w.input(w.host.evidence(ask{nonce: nonce, from: first.Next.Mark.Seq + 1}))
	in.Prior = first.Next
	second := verify.Appraise(in)
	refused(t, second, "image")
	in = w.input(w.host.evidence(ask{nonce: nonce, from: second.Next.Mark.Seq + 1}))
	in.Prior = second.Next
	refused(t, verify.Appraise(in), "image")
}
