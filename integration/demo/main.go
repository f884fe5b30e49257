// Command demo shows Sealift's first promise on a machine of its own inside
// this one: an ordinary container runs, measured into a TPM; the same container
// is refused after one byte of its unpacked image was changed. Every step says
// what it expects, and the command fails where it sees something else.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/node"
)

func main() {
	host.Reexec()
	line := flag.String("containerd", string(node.Line24), "line of containerd: 1.7 or 2.4")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, node.Line(*line)); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
