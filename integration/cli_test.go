package integration

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

// TestCommandLine is what an operator does with sealift on a node with an agent.
// Its parts build on each other.
func TestCommandLine(t *testing.T) {
	n := newNode(t, node.Options{Name: "cli", Bare: true})
	private, public := keyPair(t)
	for file, data := range map[string][]byte{"/etc/sealift/trust.d/release.pem": public, "/root/key.pem": private} {
		if err := n.WriteFile(t.Context(), file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{n.Install(t.Context(), made.Release), n.StartTPM(t.Context()), n.StartAgent(t.Context())} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []struct {
		name string
		test func(*testing.T, *node.Node)
	}{
		{"measure", measures}, {"signed references", signedReferences}, {"restricted", restricts}, {"log", logs}, {"foreign extend", foreignExtend},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.test(t, n) }) {
			return
		}
	}
}

func keyPair(t *testing.T) (private, public []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		into  *[]byte
		kind  string
		bytes func() ([]byte, error)
	}{
		{&private, "PRIVATE KEY", func() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(key) }},
		{&public, "PUBLIC KEY", func() ([]byte, error) { return x509.MarshalPKIXPublicKey(pub) }},
	} {
		der, err := k.bytes()
		if err != nil {
			t.Fatal(err)
		}
		*k.into = pem.EncodeToMemory(&pem.Block{Type: k.kind, Bytes: der})
	}
	return private, public
}

// sealift runs a script that must end with this exit status, and returns all
// that it prints.
func sealift(t *testing.T, n *node.Node, want int, script string) string {
	t.Helper()
	out, err := n.Shell(t.Context(), script+" 2>&1")
	status := 0
	var exit *host.ExitError
	if errors.As(err, &exit) {
		status, out = exit.Status, exit.Output()
	} else if err != nil {
		t.Fatal(err)
	}
	if status != want {
		t.Fatalf("%s: exit status %d, want %d\n%s", script, status, want, out)
	}
	return out
}

func runTiny(id string, flags string) string {
	return "ctr run --rm --runtime " + node.Sealift + " " + flags + " " + image.TinyName + " " + id + " true"
}

// What the agent measures on the disk is what the archive says, and that is what
// a bundle made from either lists.
func measures(t *testing.T, n *node.Node) {
	sealift(t, n, 0, "ctr image export /root/tiny.tar "+image.TinyName)
	layers := func(script string) (digests []string) {
		for line := range strings.Lines(sealift(t, n, 0, script)) {
			var m struct{ Layer, Digest, State string }
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%s: %v\n%s", script, err, line)
			}
			if m.State != "done" && m.Digest != "" {
				digests = append(digests, m.Layer+" "+m.Digest)
			}
		}
		return digests
	}
	archive, disk := layers("sealift measure --json /root/tiny.tar"), layers("sealift measure --json --force "+image.TinyName)
	if len(archive) == 0 || strings.Join(archive, "\n") != strings.Join(disk, "\n") {
		t.Errorf("archive %v, disk %v", archive, disk)
	}
	bundle := func(file, source string) string {
		sealift(t, n, 0, "sealift reference create --name tiny --version 2 --expires 2999-01-01 --key /root/key.pem -o "+file+" "+source)
		return sealift(t, n, 0, "sealift reference verify --json "+file)
	}
	if a, d := bundle("/root/a.dsse", "/root/tiny.tar"), bundle("/root/d.dsse", image.TinyName); a != d {
		t.Errorf("bundles differ:\n%s%s", a, d)
	}
	sealift(t, n, 1, "sealift measure docker.io/library/absent:1")
	// The agent speaks to the installed program only (a copy of the same content
	// is that program), whatever the uid.
	if out := sealift(t, n, 3, "cp /usr/local/bin/sealift /root/other; echo >> /root/other; /root/other status"); !strings.Contains(out, "at its installed path") {
		t.Errorf("another program: %s", out)
	}
}

// A policy that wants a signature refuses until the bundle is there; versions go
// only forward.
func signedReferences(t *testing.T, n *node.Node) {
	writePolicy(t, n, "signed", "  match: {namespaces: [default]}\n  images: {allow: [{signedBy: release/tiny}]}\n")
	if out := sealift(t, n, 1, runTiny("unsigned", "")); !strings.Contains(out, "policy signed does not allow this image") {
		t.Errorf("refused for another reason:\n%s", out)
	}
	sealift(t, n, 0, "sealift reference import /root/a.dsse")
	sealift(t, n, 0, "sealift reference import /root/d.dsse")
	sealift(t, n, 0, runTiny("signed", ""))
	sealift(t, n, 0, "sealift reference create --name tiny --version 1 --expires 2999-01-01 --key /root/key.pem -o /root/old.dsse /root/tiny.tar")
	if out := sealift(t, n, 1, "sealift reference import /root/old.dsse"); !strings.Contains(out, "version 2 was imported before") {
		t.Errorf("roll-back: %s", out)
	}
	// An empty bundle withdraws.
	sealift(t, n, 0, "sealift reference create --name tiny --version 3 --expires 2999-01-01 --key /root/key.pem -o /root/none.dsse")
	sealift(t, n, 0, "sealift reference import /root/none.dsse")
	sealift(t, n, 1, runTiny("withdrawn", ""))
	removePolicy(t, n, "signed")
}

// Restricted refuses a bind over the image that it does not list.
func restricts(t *testing.T, n *node.Node) {
	sealift(t, n, 0, "mkdir -p /srv/in /srv/out && echo x > /srv/in/motd && echo x > /srv/out/motd")
	bind := func(from string) string {
		return "--mount type=bind,src=/srv/" + from + "/motd,dst=/etc/motd,options=rbind:ro"
	}
	sealift(t, n, 0, runTiny("recorded", bind("out")))
	writePolicy(t, n, "restricted", "  match: {namespaces: [default]}\n  level: restricted\n  mounts: {allow: [{destination: /etc/motd, source: /srv/in/*, readOnly: true}]}\n")
	sealift(t, n, 0, runTiny("listed", bind("in")))
	out := sealift(t, n, 1, runTiny("unlisted", bind("out")))
	if !strings.Contains(out, "mount /etc/motd") || !strings.Contains(out, "policy restricted (restricted) does not list") {
		t.Errorf("refused for another reason:\n%s", out)
	}
	removePolicy(t, n, "restricted")
}

// What happened is in the log, by container, and the log verifies: on the node
// against its TPM, and elsewhere from a file.
func logs(t *testing.T, n *node.Node) {
	out := sealift(t, n, 0, "sealift log default/unlisted")
	if !strings.Contains(out, "refusal") || strings.Contains(out, "default/listed") {
		t.Errorf("log of one container:\n%s", out)
	}
	sealift(t, n, 0, "sealift log --verify")
	sealift(t, n, 0, "sealift log --json > /root/node.log")
	value := strings.TrimSpace(sealift(t, n, 0, "sealift status --json | sed 's/.*\"sha256\":\"\\([0-9a-f]*\\)\".*/\\1/'"))
	if out := sealift(t, n, 0, "sealift log --verify --file /root/node.log --value sha256:"+value); !strings.Contains(out, "proven: ") {
		t.Errorf("from a file: %s", out)
	}
	sealift(t, n, 1, "sed -i 2d /root/node.log; sealift log --verify --file /root/node.log --value sha256:"+value)
	sealift(t, n, 0, "sealift status")
	sealift(t, n, 0, "sealift doctor")
	if out := sealift(t, n, 0, "sealift log epochs"); strings.Count(out, "\n") != 2 {
		t.Errorf("epochs:\n%s", out)
	}
}

// Somebody else extends the PCR: starts stop until an operator's word.
func foreignExtend(t *testing.T, n *node.Node) {
	sealift(t, n, 0, "tpm2_pcrextend -T "+node.TCTI+" 13:sha256="+strings.Repeat("ab", 32))
	await(t, "the foreign extend is seen", func() bool {
		out, _ := n.Shell(t.Context(), "sealift status")
		return strings.Contains(out, "foreign")
	})
	out := sealift(t, n, 1, "sealift status")
	if !strings.Contains(out, "new starts are refused") {
		t.Errorf("status:\n%s", out)
	}
	sealift(t, n, 1, runTiny("foreign", ""))
	sealift(t, n, 1, "sealift doctor")
	sealift(t, n, 0, "sealift log acknowledge foreign --reason 'it was me'")
	sealift(t, n, 0, "sealift status")
	sealift(t, n, 0, runTiny("acknowledged", ""))
	if out := sealift(t, n, 1, "sealift log --verify"); !strings.Contains(out, "not proven") {
		t.Errorf("verify after a foreign extend:\n%s", out)
	}
}

// writePolicy puts a policy in force: the agent reads it on a signal.
func writePolicy(t *testing.T, n *node.Node, name, spec string) {
	t.Helper()
	if err := n.WritePolicy(t.Context(), name+".yaml", "apiVersion: sealift.dev/v1\nkind: WorkloadPolicy\nmetadata: {name: "+name+"}\nspec:\n"+spec); err != nil {
		t.Fatal(err)
	}
	await(t, "policy "+name, func() bool { return explained(t, n, name) })
}

func removePolicy(t *testing.T, n *node.Node, name string) {
	t.Helper()
	if err := n.RemovePolicy(t.Context(), name+".yaml"); err != nil {
		t.Fatal(err)
	}
	await(t, "no policy "+name, func() bool { return !explained(t, n, name) })
}

func explained(t *testing.T, n *node.Node, name string) bool {
	return strings.Contains(sealift(t, n, 0, "sealift policy explain -n default"), "policy "+name+" matches")
}

// await waits for something that happens soon.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}
