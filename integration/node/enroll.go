package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/sealift/sealift/integration/host"
)

// Where an AK-CA and a verifier's files are inside.
const (
	CADir    = "/srv/ca"
	TrustDir = "/srv/trust"
)

// Trust is a trust policy for test hosts: their TPM is software, nothing measured
// their boot, and nobody but Sealift says which Sealift they run. Everything else
// is as strict as it comes, but for what no test host can list ahead.
const Trust = `version: 1
ca: [{name: test, file: ca.pem, classes: [software]}]
hosts: any
boot: {unmeasured: accept, secure-boot: any}
agent:
  self-reported: accept
  executables: {sealiftd: any, containerd-shim-sealift-v2: any, sealift: any, runc: any, criu: any}
  policy-sets: any
containers: {images: any, policies: any, bindings: [verity, blob, tree]}
`

// MakeCA makes an AK-CA on this node.
func (n *Node) MakeCA(ctx context.Context) error {
	_, err := n.Shell(ctx, "sealift ca init --name test "+CADir)
	return err
}

// Enroll has the CA on another node, or this one, certify this node's key under a
// name; the messages are carried by hand.
func (n *Node) Enroll(ctx context.Context, ca *Node, name string) error {
	var message string
	for _, step := range []struct {
		on      *Node
		command string
	}{
		{n, "sealift enroll request --host " + name},
		{ca, "cat >/srv/message; sealift ca pin-ek --dir " + CADir + " --host " + name + " /srv/message >&2; sealift ca challenge --dir " + CADir + " /srv/message"},
		{n, "cat >/srv/message; sealift enroll answer /srv/message"},
		{ca, "cat >/srv/message; sealift ca issue --dir " + CADir + " /srv/message"},
		{n, "cat >/srv/message; sealift enroll store /srv/message"},
	} {
		out, err := step.on.feed(ctx, message, step.command)
		if err != nil {
			return fmt.Errorf("enrol %s: %w", name, err)
		}
		message = out
	}
	return nil
}

// WriteTrust puts what a verifier needs onto this node: the trust policy, the
// CA's certificate and its revocation list.
func (n *Node) WriteTrust(ctx context.Context, ca *Node, dir, policy string) error {
	pem, err := ca.Shell(ctx, "cat "+CADir+"/ca.pem")
	if err != nil {
		return err
	}
	crl, err := ca.Shell(ctx, "sealift ca crl --pem --dir "+CADir)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"ca.pem": pem, "ca.crl": crl, "trust.yaml": policy} {
		if err := n.WriteFile(ctx, dir+"/"+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// feed runs a script with something on its standard input.
func (n *Node) feed(ctx context.Context, input, script string) (string, error) {
	return n.RunCmd(ctx, host.Cmd{Args: []string{"/bin/sh", "-euc", script}, Stdin: strings.NewReader(input)})
}
