package ca

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// BenchmarkEnrol is a whole enrolment, both sides, at a CA that has signed before.
func BenchmarkEnrol(b *testing.B) {
	for _, n := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("after-%d", n), func(b *testing.B) {
			c := newCA(b, Options{})
			h := host(b, swtpmtest.Start(b), "web1", b.TempDir())
			pinHost(b, c, h)
			for i := range n {
				r := &Record{Serial: fmt.Sprintf("%032x", i+1), Host: fmt.Sprintf("h%d", i), AK: make([]byte, 34), EK: make([]byte, 32), Certificate: make([]byte, 700), NotAfter: time.Now().Unix()}
				data, err := eventlog.Marshal(r)
				if err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(c.path(issuedDir, r.Serial), data, 0o600); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				enrolled(b, c, h)
			}
		})
	}
}
