package hostile_test

import (
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

// TestPeers connects to the node socket from where nobody may. The socket's own
// mode is opened wide first: it is not what this is about.
func TestPeers(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "peers"})
	ctx := t.Context()
	if _, err := s.Shell(ctx, "cp "+tamper.ProbeAsShim+" /srv/probe; echo >> /srv/probe; cp /usr/local/bin/sealift /srv/sealift; chmod 755 /run/sealift; chmod 666 /run/sealift/node.sock"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(ctx, "default", overlayfs, s.Image); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Node.Run(ctx, tamper.ProbeAsShim, "try"); err != nil || !strings.Contains(out, "let in") {
		t.Fatalf("a shim is not let in: %s %v", out, err)
	}
	// A container of the stock runtime can have the socket, and everything else.
	stock := func(id string, flags ...string) func(args ...string) []string {
		return func(args ...string) []string {
			line := append([]string{"ctr", "run", "--rm", "--runtime", node.Stock, "--privileged",
				"--mount", "type=bind,src=/run/sealift,dst=/run/sealift,options=rbind:rw", "--mount", "type=bind,src=/srv,dst=/srv,options=rbind:rw",
				"--mount", "type=bind,src=/usr/bin,dst=/usr/bin,options=rbind:ro", "--mount", "type=bind,src=/usr/local/bin,dst=/usr/local/bin,options=rbind:ro"}, flags...)
			return append(append(line, tamper.Name, id), args...)
		}
	}
	strangers := []struct {
		name string
		args []string
		why  []string
	}{
		{"another user", []string{tamper.ProbeAsShim, "try", "-uid", "1000"}, []string{"uid 1000", "not root"}},
		{"another program", []string{"/srv/probe", "try"}, []string{"/srv/probe", "not one of our executables"}},
		{"root in a container", stock("root")("/srv/probe", "try"), []string{"/srv/probe", "namespace"}},
		{"our own shim's file in a container", stock("shim")(tamper.ProbeAsShim, "try"), []string{tamper.ProbeAsShim, "namespace"}},
		{"a copy of the CLI in a container", stock("cli")("/srv/sealift", "status"), []string{"/srv/sealift", "namespace"}},
		{"the CLI's own file in a container", stock("ownfile")("/usr/local/bin/sealift", "status"), []string{"/usr/local/bin/sealift", "namespace"}},
		{"the host's process namespace", stock("hostpid", "--with-ns", "pid:/proc/1/ns/pid")(tamper.ProbeAsShim, "try"), []string{tamper.ProbeAsShim, "mnt namespace"}},
		{"another program after connecting", stock("borrow", "--with-ns", "pid:/proc/1/ns/pid")("/srv/probe", "borrow", "/usr/local/bin/sealift", "version"), []string{"mnt namespace"}},
		{"from a container of ours into the host's mounts", []string{"ctr", "run", "--rm", "--runtime", node.Sealift, "--privileged", "--with-ns", "pid:/proc/1/ns/pid",
			tamper.Name, "entered", "/bin/busybox", "nsenter", "-t", "1", "-m", tamper.ProbeAsShim, "try"}, []string{tamper.ProbeAsShim, "cgroup of container default/entered"}},
	}
	for _, c := range strangers {
		t.Run(c.name, func(t *testing.T) {
			out, err := s.Node.Run(ctx, c.args...)
			if strings.Contains(out, "let in") {
				t.Errorf("let in: %s", out)
			}
			if err == nil && !strings.Contains(strings.Join(c.args, " "), " borrow ") {
				t.Errorf("no error: %s", out)
			}
		})
	}
	// The agent gathers what it turns away, so that it is looked for at the end.
	for _, c := range strangers {
		turnedAway(t, s, c.why...)
	}
}
