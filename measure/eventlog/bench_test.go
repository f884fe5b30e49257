package eventlog_test

import (
	"fmt"
	"testing"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// BenchmarkAppend is one event at a time: reading, writing, extending all
// banks, reading back.
func BenchmarkAppend(b *testing.B) {
	l := open(b, config(b, b.TempDir(), swtpmtest.Start(b).Device()))
	for b.Loop() {
		if _, err := l.Append(b.Context(), event("", "a")); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppendParallel shares extends between a hundred callers.
func BenchmarkAppendParallel(b *testing.B) {
	l := open(b, config(b, b.TempDir(), swtpmtest.Start(b).Device()))
	b.SetParallelism(50)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := l.Append(b.Context(), event("", "a")); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkVerify replays a log of ten thousand records.
func BenchmarkVerify(b *testing.B) {
	c := config(b, b.TempDir(), swtpmtest.Start(b).Device())
	l := open(b, c)
	done := make(chan error)
	for g := range 100 {
		go func() {
			var err error
			for i := 0; i < 100 && err == nil; i++ {
				_, err = l.Append(b.Context(), event("", fmt.Sprint(g, i)))
			}
			done <- err
		}()
	}
	for range 100 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		lines, err := eventlog.Lines(c.Dir, "")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := eventlog.Verify(lines, nil); err != nil {
			b.Fatal(err)
		}
	}
}
