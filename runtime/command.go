package runtime

import (
	"path/filepath"
	"slices"
	"strings"
)

// A command is an invocation of runc as go-runc writes it: global flags, the
// name of the command, its flags, and the container's id last.
type command struct {
	args []string
	name string
	root string
	id   string
	// bundle is the index in args of the bundle's directory, 0 without one.
	bundle int
	forced bool
}

// globalValues are the global flags that take a value.
var globalValues = []string{"--root", "--log", "--log-format"}

func parseCommand(args []string) command {
	c := command{args: args}
	i := 1
	for ; i < len(args) && strings.HasPrefix(args[i], "-"); i++ {
		if slices.Contains(globalValues, args[i]) && i+1 < len(args) {
			if args[i] == "--root" {
				c.root = args[i+1]
			}
			i++
		}
	}
	if i >= len(args) {
		return c
	}
	c.name = args[i]
	for i++; i < len(args); i++ {
		switch args[i] {
		case "--bundle", "-b":
			if i+1 < len(args) {
				i++
				c.bundle = i
			}
		case "--force", "-f":
			c.forced = true
		}
	}
	if len(args) > 1 {
		c.id = args[len(args)-1]
	}
	return c
}

// makes says whether the command brings a container into being.
func (c command) makes() bool {
	return c.name == "create" || c.name == "restore" || c.name == "run"
}

// stateDir is where the OCI runtime keeps the container's state.
func (c command) stateDir() string { return filepath.Join(c.root, c.id) }
