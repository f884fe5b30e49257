package thread

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What f does to its thread is not seen on the process, however its goroutines
// are spread over its threads.
func TestNeverTheFirst(t *testing.T) {
	before := firstName(t)
	rename := func() error {
		if unix.Gettid() == unix.Getpid() {
			return errors.New("runs on the first thread")
		}
		return os.WriteFile("/proc/thread-self/comm", []byte("renamed"), 0)
	}
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			runtime.Gosched()
			if err := Run(rename); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if after := firstName(t); after != before {
		t.Errorf("the process is called %q, was %q", after, before)
	}
}

func firstName(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
