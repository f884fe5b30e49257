package channel

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"
)

// A goroutine or a descriptor that the tests leave behind fails them.
func TestMain(m *testing.M) {
	goroutines, files := runtime.NumGoroutine(), descriptors()
	code := m.Run()
	// The fuzzer has workers and pipes of its own.
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if v := flag.Lookup(name).Value.String(); v != "" && v != "false" {
			os.Exit(code)
		}
	}
	for until := time.Now().Add(time.Minute); code == 0; time.Sleep(20 * time.Millisecond) {
		g, f := runtime.NumGoroutine(), descriptors()
		// The poller's own descriptors come with the first connection.
		if g <= goroutines && f <= files+4 {
			break
		}
		if time.Now().After(until) {
			fmt.Fprintf(os.Stderr, "left behind: %d goroutines (%d before), %d descriptors (%d before)\n", g, goroutines, f, files)
			pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			code = 1
		}
	}
	os.Exit(code)
}

func descriptors() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(list)
}
