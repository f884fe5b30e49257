package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

// Where things are inside.
const (
	layouts = "/srv/layouts"
	logs    = "/var/log/daemons"
)

// containerdConfig leaves out what has nothing to do with us.
var containerdConfig = map[node.Line]string{
	node.Line17: "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
	node.Line24: `version = 3
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
`,
}

// NodeOptions say what a node is made from. The zero value is a release build on
// the newest containerd.
type NodeOptions struct {
	Options
	Line     node.Line
	Binaries made.Variant
	// Images are there as layouts, and imported by Node.Import.
	Images []*image.Image
	// Containerd is added to containerd's configuration, ImportArgs to ctr's
	// arguments when an image is imported.
	Containerd string
	ImportArgs []string
}

// Node is a machine with containerd, the agent and the shim where an
// installation puts them. The agent finds the machine's TPM by itself.
type Node struct {
	*VM
	Line node.Line

	importArgs []string
}

// NewNode makes a machine, installs everything and starts it.
func NewNode(ctx context.Context, o NodeOptions) (_ *Node, err error) {
	if o.Line == "" {
		o.Line = node.Line24
	}
	if o.Binaries == "" {
		o.Binaries = made.Release
	}
	files, err := o.files(ctx)
	if err != nil {
		return nil, err
	}
	o.Files = append(files, o.Files...)
	n := &Node{Line: o.Line, importArgs: o.ImportArgs}
	if n.VM, err = New(ctx, o.Options); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			var b strings.Builder
			n.DumpLogs(ctx, &b)
			err = errors.Join(err, errors.New(b.String()), n.Close())
		}
	}()
	if err := n.WriteFile(ctx, "/etc/containerd/config.toml", []byte(containerdConfig[n.Line]+o.Containerd), 0o644); err != nil {
		return nil, err
	}
	return n, n.Start(ctx)
}

// files are the programs and the images' layouts.
func (o *NodeOptions) files(ctx context.Context) ([]File, error) {
	var files []File
	ours, err := made.Binaries(ctx, o.Binaries)
	if err != nil {
		return nil, err
	}
	for _, b := range []string{"containerd-shim-sealift-v2", "sealiftd", "sealift"} {
		files = append(files, File{filepath.Join(ours, b), "/usr/local/bin/" + b})
	}
	if o.Line == node.Line24 {
		dir, err := made.Containerd(ctx)
		if err != nil {
			return nil, err
		}
		for _, b := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
			files = append(files, File{filepath.Join(dir, b), "/usr/bin/" + b})
		}
	}
	for _, img := range o.Images {
		files = append(files, File{img.Dir, layout(img)})
	}
	return files, nil
}

func layout(img *image.Image) string { return layouts + "/" + img.Manifest.Encoded() }

// Start starts containerd and the agent: after a boot, or after they were
// stopped.
func (n *Node) Start(ctx context.Context) error {
	if err := n.StartContainerd(ctx); err != nil {
		return err
	}
	return n.StartAgent(ctx)
}

// StartContainerd starts the daemon and waits until it serves.
func (n *Node) StartContainerd(ctx context.Context) error {
	return n.daemon(ctx, "containerd", "ctr version")
}

// StartAgent starts sealiftd and waits until it answers, in whatever state its
// log is.
func (n *Node) StartAgent(ctx context.Context) error {
	return n.daemon(ctx, "sealiftd", `sealift status --json | grep -q '"log"'`)
}

// patience is how long a daemon may take to serve, on a slow and busy machine.
const patience = 3 * time.Minute

// daemon starts a program that is to stay and waits until the probe succeeds.
func (n *Node) daemon(ctx context.Context, name, probe string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s does not serve after %s", name, patience))
	defer cancel()
	if n.o.Systemd {
		_, err := n.Shell(ctx, fmt.Sprintf("systemctl daemon-reload; systemctl start %s; until %s >/dev/null 2>&1; do sleep 0.2; done", name, probe))
		return err
	}
	_, err := n.Shell(ctx, fmt.Sprintf(`mkdir -p %[2]s
setsid %[1]s >>%[2]s/%[1]s </dev/null 2>&1 &
until %[3]s >/dev/null 2>&1; do
	[ -d /proc/$! ] || { echo %[1]s ended; exit 1; }
	sleep 0.2
done`, name, logs, probe))
	return err
}

// DumpLogs writes the end of every daemon's output, and of the console.
func (n *Node) DumpLogs(ctx context.Context, w io.Writer) {
	out, err := n.Shell(context.WithoutCancel(ctx), "tail -n 40 "+logs+"/* || journalctl --no-pager -n 100 || true")
	fmt.Fprintf(w, "--- daemons: %v\n%s\n--- console\n%s\n", err, out, n.console(2000))
}

// Import gives containerd an image of NodeOptions.Images and unpacks it.
func (n *Node) Import(ctx context.Context, img *image.Image) error {
	_, err := n.Shell(ctx, fmt.Sprintf("tar -C %s -c . | ctr image import %s -", layout(img), strings.Join(n.importArgs, " ")))
	return err
}
