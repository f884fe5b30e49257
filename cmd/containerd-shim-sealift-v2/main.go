// Command containerd-shim-sealift-v2 is the shim that containerd starts for
// the runtime io.containerd.sealift.v2.
package main

import (
	"os"

	"github.com/sealift/sealift/shim"
)

func main() {
	os.Exit(shim.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
}
