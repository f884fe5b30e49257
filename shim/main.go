// Package shim is containerd's side of Sealift: the shim that containerd starts
// for the runtime io.containerd.sealift.v2. It decorates containerd's own runc
// task service, so that nothing is created, executed or changed before the
// agent has put it into the log and the TPM.
package shim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	cshim "github.com/containerd/containerd/v2/pkg/shim"

	"github.com/sealift/sealift/internal/version"
)

// Name is the runtime's name in containerd.
const Name = "io.containerd.sealift.v2"

// invocation is the command line by which containerd runs a shim.
type invocation struct {
	action    string
	namespace string
	id        string
	address   string
	bundle    string
	debug     bool
	version   bool
	info      bool
}

func parse(args []string, stderr io.Writer) (invocation, error) {
	var v invocation
	var ignored string
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&v.debug, "debug", false, "log debug messages")
	f.BoolVar(&v.version, "v", false, "print the version and exit")
	f.BoolVar(&v.version, "version", false, "print the version and exit")
	f.BoolVar(&v.info, "info", false, "read options from stdin, print the runtime's description as protobuf and exit")
	f.StringVar(&v.namespace, "namespace", "", "containerd namespace of the container")
	f.StringVar(&v.id, "id", "", "id of the container")
	f.StringVar(&v.address, "address", "", "containerd's gRPC socket")
	f.StringVar(&v.bundle, "bundle", "", "bundle directory, where it is not the working directory")
	f.StringVar(&ignored, "socket", "", "socket to serve on, where none is inherited")
	f.StringVar(&ignored, "debug-socket", "", "accepted for containerd's sake; there is no debug socket")
	f.StringVar(&ignored, "publish-binary", "", "accepted for containerd's sake; events go to TTRPC_ADDRESS")
	if err := f.Parse(args[1:]); err != nil {
		return v, err
	}
	v.action = f.Arg(0)
	return v, nil
}

// Main runs what args ask for and returns the exit status. containerd starts a
// shim three times in a container's life: with the action start, which starts
// the shim proper and prints its address; without one, as the shim proper; and
// with the action delete, after the shim has gone.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	v, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	ctx := context.Background()
	switch {
	case v.version:
		fmt.Fprintf(stdout, "%s %s\n", Name, version.Version)
	case v.info:
		err = info(ctx, stdin, stdout)
	case v.namespace == "":
		err = errors.New("-namespace is missing\nhint: containerd runs this program; see containerd's runtime-v2 documentation")
	case v.action == "start":
		err = start(namespaces.WithNamespace(ctx, v.namespace), v, stdin, stdout)
	case v.action == "delete":
		err = remove(namespaces.WithNamespace(ctx, v.namespace), v, stdout)
	case v.action == "":
		register(v)
		cshim.RunShim(ctx, manager{})
	default:
		err = fmt.Errorf("unknown action %q", v.action)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", Name, err)
		return 1
	}
	return 0
}
