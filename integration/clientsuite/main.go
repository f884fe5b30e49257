// Command clientsuite runs the parts of containerd's own client test suite that
// exercise a shim, once with the stock shim and once with ours, each test in a
// daemon of its own, and prints both results side by side. It fails when ours
// fails a test that the stock shim passes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/node"
)

// relevant are the suite's tests of containers, tasks and shims; the rest tests
// images, content and leases, of which no shim knows.
var relevant = regexp.MustCompile(`^Test(` +
	`NewContainer|Container|Delete|Kill|Wait|Task|Process|Shim|Short|Regression|Daemon|Restart|` +
	`User|UID|BindLow|Issue|Checkpoint|IDMapped)`)

// unfit are tests that hang or fail for reasons of this place, whatever the shim.
var unfit = map[string]string{
	"TestBindLowPortNonOpt": "hangs with either shim: Debian's busybox nc, as process 1, ignores SIGTERM",
}

func main() {
	host.Reexec()
	only := flag.String("run", ".", "only tests that match")
	ours := flag.String("runtime", node.Sealift, "the runtime to compare with the stock one")
	verbose := flag.Bool("v", false, "show why the stock shim fails what it fails")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, os.Stdout, *only, *ours, *verbose)
	if err != nil {
		fmt.Fprintln(os.Stderr, "clientsuite:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}
