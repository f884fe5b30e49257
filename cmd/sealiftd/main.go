// Command sealiftd is Sealift's agent: one on each node.
package main

import (
	"os"

	"github.com/sealift/sealift/agent/command"
	"github.com/sealift/sealift/internal/version"
)

func main() { os.Exit(command.Main(os.Args[1:], version.Version, os.Stdout, os.Stderr)) }
