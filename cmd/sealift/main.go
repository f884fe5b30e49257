// Command sealift is what a person types: it asks the agent, measures, signs
// references, checks policies, and looks at the machine.
package main

import (
	"os"

	"github.com/sealift/sealift/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
