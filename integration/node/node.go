// Package node makes a test host into a node: a containerd of either line, the
// software TPM, the agent, the shim, all started as on a machine and found
// where an installation puts them.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/made"
)

// Line is a line of containerd.
type Line string

// The lines: Debian 13's, and the newest.
const (
	Line17 Line = "1.7"
	Line24 Line = "2.4"
)

// Lines are all of them.
var Lines = []Line{Line17, Line24}

// The runtimes a container can be given: ours in both ways of installing it,
// and the stock one. ctr takes an absolute path as "runc.v2 with runtime_path".
const (
	Sealift     = "io.containerd.sealift.v2"
	SealiftPath = "/usr/local/bin/containerd-shim-sealift-v2"
	Stock       = "io.containerd.runc.v2"
)

// Where things are inside.
const (
	containerdSocket = "/run/containerd/containerd.sock"
	nodeSocket       = "/run/sealift/node.sock"
	tpmSocket        = "/run/sealift/swtpm.sock"
	configFile       = "/etc/sealift/config.toml"
	policyDir        = "/etc/sealift/policy.d"
)

// TCTI is how tpm2-tools reach the embedded TPM.
const TCTI = "swtpm:path=" + tpmSocket

// patience is how long a daemon may take to serve its socket, on a machine that
// is busy with other tests.
const patience = 2 * time.Minute

// Options say what a node is made from. The zero value is a release build on
// the newest containerd.
type Options struct {
	Name     string
	Line     Line
	Binaries made.Variant
	// Config is the agent's configuration file, beyond its defaults; Containerd
	// is added to containerd's.
	Config, Containerd string
	// Policies are policy files by name.
	Policies map[string]string
	Binds    []host.Bind
	// Bare leaves the agent and the TPM out.
	Bare bool
}

// Node is a running node.
type Node struct {
	*host.Host
	Line Line

	Containerd, Agent, TPM *host.Daemon

	containerdConfig string
}

// New makes a host and starts everything on it. The program must have called
// host.Reexec.
func New(ctx context.Context, o Options) (_ *Node, err error) {
	if o.Line == "" {
		o.Line = Line24
	}
	if o.Binaries == "" {
		o.Binaries = made.Release
	}
	if o.Name == "" {
		o.Name = "node"
	}
	n := &Node{Line: o.Line, containerdConfig: containerdConfig[o.Line] + o.Containerd}
	if n.Host, err = newHost(ctx, o); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.logsError(), n.Close())
		}
	}()
	if err := n.StartContainerd(ctx); err != nil {
		return nil, err
	}
	if o.Bare {
		return n, nil
	}
	if err := n.Install(ctx, o.Binaries); err != nil {
		return nil, err
	}
	if o.Config != "" {
		if err := n.WriteFile(ctx, configFile, []byte(o.Config), 0o644); err != nil {
			return nil, err
		}
	}
	for name, text := range o.Policies {
		if err := n.WritePolicy(ctx, name, text); err != nil {
			return nil, err
		}
	}
	if err := n.StartTPM(ctx); err != nil {
		return nil, err
	}
	return n, n.StartAgent(ctx)
}

func newHost(ctx context.Context, o Options) (*host.Host, error) {
	rootfs, err := made.Rootfs(ctx)
	if err != nil {
		return nil, err
	}
	scratch, err := made.Scratch()
	if err != nil {
		return nil, err
	}
	binds := o.Binds
	if o.Line == Line24 {
		dir, err := made.Containerd(ctx)
		if err != nil {
			return nil, err
		}
		for _, b := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
			binds = append(binds, host.Bind{Source: filepath.Join(dir, b), Target: "/usr/bin/" + b})
		}
	}
	return host.New(ctx, host.Options{Name: o.Name, Rootfs: rootfs, Scratch: scratch, Binds: binds})
}

// Install puts a build of Sealift where an installation puts it. What runs goes
// on running the old files.
func (n *Node) Install(ctx context.Context, v made.Variant) error {
	dir, err := made.Binaries(ctx, v)
	if err != nil {
		return err
	}
	for _, b := range []string{"containerd-shim-sealift-v2", "sealiftd", "sealift"} {
		if err := n.CopyFile(ctx, filepath.Join(dir, b), "/usr/local/bin/"+b); err != nil {
			return err
		}
	}
	return nil
}

// InstallTool puts one of the programs under integration/ into PATH.
func (n *Node) InstallTool(ctx context.Context, name string) error {
	file, err := made.Tool(ctx, name)
	if err != nil {
		return err
	}
	return n.CopyFile(ctx, file, "/usr/local/bin/"+name)
}

// containerdConfig leaves out what has nothing to do with us and cannot load
// in a test host.
var containerdConfig = map[Line]string{
	Line17: "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
	Line24: `version = 3
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
`,
}

// StartContainerd starts the daemon and waits until it serves.
func (n *Node) StartContainerd(ctx context.Context) error {
	if err := n.WriteFile(ctx, "/etc/containerd/config.toml", []byte(n.containerdConfig), 0o644); err != nil {
		return err
	}
	d, err := n.Daemon("containerd", host.Cmd{Args: []string{"containerd"}})
	if err != nil {
		return err
	}
	n.Containerd = d
	return n.await(ctx, d, "ctr", "version")
}

// StartTPM starts the software TPM as its unit does.
func (n *Node) StartTPM(ctx context.Context) error {
	if _, err := n.Shell(ctx, "mkdir -p -m 700 /var/lib/sealift/swtpm /run/sealift"); err != nil {
		return err
	}
	d, err := n.Daemon("swtpm", host.Cmd{Args: []string{"swtpm", "socket", "--tpm2", "--tpmstate", "dir=/var/lib/sealift/swtpm",
		"--server", "type=unixio,path=" + tpmSocket, "--ctrl", "type=unixio,path=" + tpmSocket + ".ctrl",
		"--flags", "not-need-init,startup-clear"}})
	if err != nil {
		return err
	}
	n.TPM = d
	return n.await(ctx, d, "test", "-S", tpmSocket)
}

// StartAgent starts sealiftd and waits until it answers.
func (n *Node) StartAgent(ctx context.Context) error {
	d, err := n.Daemon("sealiftd", host.Cmd{Args: []string{"/usr/local/bin/sealiftd"}})
	if err != nil {
		return err
	}
	n.Agent = d
	// Not status, whose exit status is 1 while the log's state refuses starts.
	return n.await(ctx, d, "sealift", "policy", "explain")
}

// await runs a probe until it succeeds or the daemon ends.
func (n *Node) await(ctx context.Context, d *host.Daemon, probe ...string) error {
	var last error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, last = n.Run(ctx, probe...); last == nil {
			return nil
		}
		select {
		case <-d.Done():
			status, _ := d.Wait()
			return fmt.Errorf("%s on %s ended with status %d before it served: %w", d.Name, n.Name, status, n.tail(d))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s on %s does not serve after %s: %w", d.Name, n.Name, patience, last)
}

func (n *Node) tail(d *host.Daemon) error {
	b, err := os.ReadFile(d.Log)
	if err != nil {
		return err
	}
	return errors.New(string(b[max(0, len(b)-4000):]))
}

func (n *Node) logsError() error {
	var b strings.Builder
	n.DumpLogs(&b)
	return errors.New(b.String())
}

// DumpLogs writes the end of every daemon's output.
func (n *Node) DumpLogs(w io.Writer) {
	for _, d := range []*host.Daemon{n.TPM, n.Agent, n.Containerd} {
		if d != nil {
			fmt.Fprintf(w, "--- %s on %s\n%v\n", d.Name, n.Name, n.tail(d))
		}
	}
}

// Ctr runs ctr in the default namespace.
func (n *Node) Ctr(ctx context.Context, args ...string) (string, error) {
	return n.Run(ctx, append([]string{"ctr"}, args...)...)
}

// WritePolicy writes a policy file and tells the agent.
func (n *Node) WritePolicy(ctx context.Context, name, text string) error {
	if err := n.WriteFile(ctx, filepath.Join(policyDir, name), []byte(text), 0o644); err != nil {
		return err
	}
	return n.reload()
}

// RemovePolicy takes a policy file away again.
func (n *Node) RemovePolicy(ctx context.Context, name string) error {
	if _, err := n.Run(ctx, "rm", filepath.Join(policyDir, name)); err != nil {
		return err
	}
	return n.reload()
}

func (n *Node) reload() error {
	if n.Agent == nil {
		return nil
	}
	return n.Agent.Signal(unix.SIGHUP)
}
