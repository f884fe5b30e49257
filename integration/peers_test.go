package integration

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
)

// python is a program of root's that speaks to the node socket.
const python = `python3 - <<'END'
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/sealift/node.sock")
s.settimeout(5)
try:
    s.send(bytes(10))
    answer = s.recv(1)
except ConnectionError:
    answer = b""
raise SystemExit(0 if answer else "nobody answered")
END`

// The node socket answers our shims and root's CLI, and nobody else: not another
// user, not another program of root's, and not uid 0 inside a container that was
// given the socket and our very CLI.
func TestNodeSocketTurnsStrangersAway(t *testing.T) {
	n := newNode(t, node.Options{Name: "peers"})
	s := subject{n, byName, t}
	s.sh("sealift status --json | jq -e .log.state") // the control
	for name, c := range map[string]struct{ script, want string }{
		"another user":          {"chmod 755 /run/sealift; setpriv --reuid 65534 --regid 65534 --clear-groups sealift status", "permission denied"},
		"another program":       {python, "nobody answered"},
		"another pid namespace": {"unshare --pid --fork --mount-proc sealift status", "closed the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.Shell(t.Context(), c.script)
			var exit *host.ExitError
			if !errors.As(err, &exit) || !strings.Contains(exit.Output(), c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
	t.Run("root in a container", func(t *testing.T) {
		// The stock runtime lets the socket in; what answers must still not.
		s := subject{n, stock, t}
		s.create("inside", "-mount", "/run/sealift:/run/sealift", "-mount", "/usr/local/bin:/usr/local/bin", "--", "sleep", "600")
		defer s.remove("inside")
		_, err := n.Ctr(t.Context(), "task", "exec", "--exec-id", "ask", "inside", "/usr/local/bin/sealift", "status")
		var exit *host.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("was answered: %v", err)
		}
		if !strings.Contains(exit.Output(), "closed the connection") {
			t.Errorf("the CLI did not get as far as the socket: %s", exit.Output())
		}
	})
	s.sh("sealift status --json | jq -e .log.state")
}

// A container that asks for our socket, our state or the TPM gets none of them.
func TestSpecsThatReachForUs(t *testing.T) {
	n := newNode(t, node.Options{Name: "reach"})
	s := subject{n, byName, t}
	s.create("control", "-mount", "/srv:/srv", "--", "sleep", "600")
	s.remove("control")
	for name, mount := range map[string]string{
		"the socket":        "/run/sealift/node.sock:/tmp/s",
		"its directory":     "/run/sealift:/tmp/s",
		"a parent of it":    "/run:/tmp/s",
		"the state":         "/var/lib/sealift:/tmp/s",
		"the log":           "/var/lib/sealift/log:/tmp/s",
		"the configuration": "/etc/sealift:/tmp/s",
	} {
		t.Run(name, func(t *testing.T) {
			s := subject{n, byName, t}
			s.sh("mkdir -p /etc/sealift; ln -sfn %s /srv/detour", strings.Split(mount, ":")[0])
			for _, m := range []string{mount, "/srv/detour:/tmp/s"} {
				out, err := s.tryCreate("reach", "-mount", m, "--", "sleep", "600")
				var exit *host.ExitError
				if !errors.As(err, &exit) {
					s.remove("reach")
					t.Errorf("%s was let in: %s", m, out)
					continue
				}
				if !strings.Contains(exit.Output(), "sealift") {
					t.Errorf("%s: refused by somebody else: %s", m, exit.Output())
				}
			}
		})
	}
	nothingLeft(s)
	logHolds(s, "trusted")
}

// A user's CRIU configuration is refused: it can name a script that runs as root
// of the host.
func TestUserCRIUConfigRefused(t *testing.T) {
	n := newNode(t, node.Options{Name: "criu-config"})
	s := subject{n, byName, t}
	_, err := s.tryCreate("criu", "-annotation", "org.criu.config=/srv/criu.conf", "--", "true")
	var exit *host.ExitError
	if !errors.As(err, &exit) || !strings.Contains(exit.Output(), "org.criu.config") {
		t.Errorf("got %v", err)
	}
	s.sh("ctr run --rm --runtime %s %s after true", s.ctr, image.TinyName)
}
