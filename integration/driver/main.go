// Command driver is a containerd client that runs inside a test host and does
// what ctr has no words for: pods, options of every kind, updates, hooks, and
// the timing of a container's life.
//
//	driver create -id ID -image NAME -runtime NAME [flags] -- ARGS...
//	driver update -id ID -memory BYTES
//	driver leave  -id ID -image NAME -runtime NAME
//	driver attach -id ID
//	driver cycle  -image NAME -runtime NAME[,NAME] -n N
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

const socket = "/run/containerd/containerd.sock"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

// settings are the flags of all commands.
type settings struct {
	namespace, id, image, snapshotter string
	runtime, runtimePath              string
	options, body                     string
	cgroups                           string
	annotations, mounts, hooks        list
	memory                            int64
	n                                 int
	args                              []string
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: driver create|update|leave|attach|cycle [flags]")
	}
	var s settings
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.StringVar(&s.namespace, "namespace", "default", "containerd namespace")
	f.StringVar(&s.id, "id", "", "container")
	f.StringVar(&s.image, "image", "", "image name")
	f.StringVar(&s.snapshotter, "snapshotter", "overlayfs", "snapshotter")
	f.StringVar(&s.runtime, "runtime", "", "runtime name; for cycle several, taken in turn")
	f.StringVar(&s.runtimePath, "runtime-path", "", "the shim's binary, for a runtime name that is not its own")
	f.StringVar(&s.options, "options", "none", "runtime options: none, runc, path or body")
	f.StringVar(&s.body, "body", "", "for runc: key=value,...; for path and body: TOML")
	f.StringVar(&s.cgroups, "cgroups", "", "cgroups path of the spec")
	f.Var(&s.annotations, "annotation", "key=value")
	f.Var(&s.mounts, "mount", "source:destination, bound read-only")
	f.Var(&s.hooks, "hook", "program run as createRuntime hook")
	f.Int64Var(&s.memory, "memory", 0, "memory limit in bytes")
	f.IntVar(&s.n, "n", 10, "how many times")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	s.args = f.Args()
	c, err := client.New(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(context.Background(), s.namespace)
	switch args[0] {
	case "create":
		return create(ctx, c, s)
	case "update":
		return update(ctx, c, s)
	case "leave":
		return leave(ctx, c, s)
	case "attach":
		return attach(ctx, c, s)
	case "cycle":
		return cycle(ctx, c, s)
	}
	return fmt.Errorf("unknown command %q", args[0])
}
