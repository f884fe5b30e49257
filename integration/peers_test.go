package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

const peerConfig = "[attest]\nlisten = \"0.0.0.0:7443\"\ninterval = \"2s\"\n"

// pair are two nodes with a cable between them, enrolled with one CA, each on the
// other's list of peers.
type pair struct{ a, b *node.Node }

func newPair(t *testing.T) pair {
	t.Helper()
	ctx := t.Context()
	p := pair{newNode(t, node.Options{Name: "hosta", Config: peerConfig}), newNode(t, node.Options{Name: "hostb", Config: peerConfig})}
	if err := host.Link(ctx, "cable", p.a.Host, "10.99.1.1/24", p.b.Host, "10.99.1.2/24"); err != nil {
		t.Fatal(err)
	}
	if err := p.a.MakeCA(ctx); err != nil {
		t.Fatal(err)
	}
	tiny, err := made.Image(ctx, "tiny", image.Tiny)
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]*node.Node{"host-a": p.a, "host-b": p.b} {
		if err := n.Enroll(ctx, p.a, name); err != nil {
			t.Fatal(err)
		}
		if err := n.Import(ctx, tiny); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []*node.Node{p.a, p.b} {
		if err := n.WriteTrust(ctx, p.a, "/etc/sealift", node.Trust); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Shell(ctx, "mkdir -p /etc/sealift/crl.d; mv /etc/sealift/ca.crl /etc/sealift/crl.d/"); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		n           *node.Node
		name, where string
	}{{p.a, "host-b", "10.99.1.2:7443"}, {p.b, "host-a", "10.99.1.1:7443"}} {
		if _, err := x.n.Shell(ctx, "sealift peer add "+x.name+" "+x.where); err != nil {
			t.Fatal(err)
		}
		watches(t, x.n, x.name)
	}
	return p
}

// watches follows a peer on a node, for as long as its agent runs.
func watches(t *testing.T, n *node.Node, peer string) {
	t.Helper()
	if _, err := n.Shell(t.Context(), "nohup sealift verify --watch "+peer+" >/srv/changes 2>&1 </dev/null &"); err != nil {
		t.Fatal(err)
	}
}

// shows waits until one host's watch of the other says the words, and returns
// how long that took.
func shows(t *testing.T, n *node.Node, since time.Time, words ...string) {
	t.Helper()
	var out string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var err error
		if out, err = n.Shell(t.Context(), "cat /srv/changes"); err != nil {
			t.Fatal(err)
		}
		all := true
		for _, w := range words {
			all = all && strings.Contains(out, w)
		}
		if all {
			t.Logf("%s shows %q after %.1f s", n.Name, words, time.Since(since).Seconds())
			return
		}
	}
	t.Fatalf("%s does not show %q:\n%s", n.Name, words, out)
}

// forget empties what the watch has said so far.
func forget(t *testing.T, n *node.Node) {
	t.Helper()
	if _, err := n.Shell(t.Context(), ": >/srv/changes"); err != nil {
		t.Fatal(err)
	}
}

// Two hosts watch each other: what happens on one is told by the other, by name;
// and trust comes back only as policy says.
func TestPeers(t *testing.T) {
	p := newPair(t)
	ctx := t.Context()
	start := time.Now()
	shows(t, p.a, start, "trusted")
	shows(t, p.b, start, "trusted")

	t.Run("stopped agent", func(t *testing.T) {
		forget(t, p.a)
		at := time.Now()
		if err := p.b.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
		shows(t, p.a, at, "unreachable", "agent stopped")
		forget(t, p.a)
		if err := p.b.StartAgent(ctx); err != nil {
			t.Fatal(err)
		}
		shows(t, p.a, time.Now(), "trusted again")
		watches(t, p.b, "host-a")
	})
	t.Run("foreign extend", func(t *testing.T) {
		forget(t, p.b)
		at := time.Now()
		if _, err := p.a.Shell(ctx, "tpm2_pcrextend -T "+node.TCTI+" 13:sha256="+strings.Repeat("5a", 32)); err != nil {
			t.Fatal(err)
		}
		shows(t, p.b, at, "foreign extend")
		// An operator's word is not enough where the trust policy does not say so.
		if _, err := p.a.Shell(ctx, "sealift log acknowledge --reason 'it was me' foreign"); err != nil {
			t.Fatal(err)
		}
		if out, err := p.b.Shell(ctx, "sealift peer check host-a"); err == nil || !strings.Contains(out, "not-trusted") {
			t.Errorf("after an acknowledgement that the policy does not accept: %v\n%s", err, out)
		}
		forget(t, p.b)
		if _, err := p.b.Shell(ctx, "printf 'log: {acknowledged: accept}\\n' >>/etc/sealift/trust.yaml"); err != nil {
			t.Fatal(err)
		}
		shows(t, p.b, time.Now(), "trusted again")
		// The other way it may never have been otherwise: it depends on whose turn
		// it was to ask.
		subject{p.a, byName, t}.eventually("host-b is trusted", "sealift peer check host-b")
	})
	// Last: what was started counts until the host boots anew, and a host that
	// does not trust another proves nothing to it.
	t.Run("container policy violation", func(t *testing.T) {
		forget(t, p.a)
		if err := p.b.WritePolicy(ctx, "audit.yaml", "apiVersion: sealift.dev/v1\nkind: WorkloadPolicy\nmetadata: {name: audit}\nspec:\n  match: {namespaces: [default]}\n  content: audit\n"); err != nil {
			t.Fatal(err)
		}
		file, err := p.b.Shell(ctx, "ls /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/etc/motd")
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		if _, err := p.b.Shell(ctx, fmt.Sprintf("echo tampered >>%s; ctr run --rm --runtime %s %s evil true", strings.TrimSpace(file), node.Sealift, image.TinyName)); err != nil {
			t.Fatal(err)
		}
		shows(t, p.a, at, "not-trusted", "default/evil", "layer-content")
		if out, err := p.a.Shell(ctx, "sealift peer check host-b"); err == nil || !strings.Contains(out, "not-trusted") {
			t.Errorf("a container that has ended was started all the same: %v\n%s", err, out)
		}
	})
	if out, err := p.a.Shell(ctx, "sealift log --json | jq -r 'select(.item.record.type == \"peer\") | .item.record.body.code'"); err != nil || !strings.Contains(out, "would-refuse") {
		t.Errorf("the log of what was seen of peers: %v\n%s", err, out)
	}
}
