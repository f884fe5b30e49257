package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

// evidenceDir is inside; what is for others to look at ends in build/evidence.
const evidenceDir = "/srv/evidence"

// nobody runs a command as an unprivileged user without a network.
const nobody = "unshare -n setpriv --reuid=65534 --regid=65534 --clear-groups "

// enrols has an AK-CA certify the key that will quote.
func (p *play) enrols(ctx context.Context) error {
	p.say("The host enrols: an AK-CA sees that the key which will quote is in this very TPM, and writes down what kind it is.")
	p.shell(ctx, "sealift ca init --name demo "+node.CADir+" | head -n 4")
	p.shell(ctx, "cd /srv; sealift enroll request --host demo >request.json && sealift ca pin-ek --dir ca --host demo request.json")
	_, ok := p.shell(ctx, `cd /srv; sealift ca challenge --dir ca request.json >challenge.json &&
     sealift enroll answer challenge.json >answer.json && sealift ca issue --dir ca answer.json >certificate.json`)
	p.expect("the TPM opens the challenge, and the CA certifies the key", ok)
	out, ok := p.shell(ctx, "cd /srv; sealift enroll store certificate.json; sealift ca list --dir ca")
	p.expect("as what it is: software", ok && strings.Contains(out, "software"))
	return p.n.WriteTrust(ctx, p.n, evidenceDir, node.Trust)
}

// attests makes evidence of what ran so far. A verifier would choose the nonce.
func (p *play) attests(ctx context.Context) error {
	p.say("A stranger wants proof of what this host booted and started, and sends a nonce.")
	_, ok := p.shell(ctx, "cd "+evidenceDir+"; openssl rand -hex 32 >nonce; sealift attest --nonce $(cat nonce) -o evidence.json")
	p.expect("the host proves it", ok)
	return nil
}

// judges has a user without any right, and without a network, verify it.
func (p *play) judges(ctx context.Context) error {
	const verify = "cd " + evidenceDir + "; " + nobody + "sealift verify --crl ca.crl --nonce $(cat nonce) "
	p.say("The evidence of the run that was tampered with, verified by user nobody in an empty network namespace.")
	out, ok := p.shell(ctx, verify+"tampered.json")
	p.expect("it is not trusted", !ok && strings.Contains(out, "NOT TRUSTED"))
	p.expect("and the reason is named: default/third would have been refused", strings.Contains(out, "would have refused") && strings.Contains(out, "default/third"))

	p.say("The evidence of before, with the programs that others wrote, and with ours.")
	p.shell(ctx, "cd "+evidenceDir+"; sealift verify --export-tpm2 . --crl ca.crl --nonce $(cat nonce) evidence.json >/dev/null; ls")
	_, ok = p.shell(ctx, "cd "+evidenceDir+"; tpm2_checkquote -u ak.pem -m quote.msg -s quote.sig -q $(cat qualification) | tail -n 3")
	p.expect("tpm2_checkquote accepts the quote", ok)
	out, ok = p.shell(ctx, verify+"--tree evidence.json")
	p.expect("the tree shows the container that ran", ok && strings.Contains(out, image.TinyName))
	out, ok = p.shell(ctx, verify+"evidence.json")
	p.expect("nobody, without network, root or agent, says: trusted", ok && strings.Contains(out, ": trusted"))
	return p.keep(ctx)
}

// tampered makes the second evidence, after the container that only audit let
// through.
func (p *play) tampered(ctx context.Context) error {
	p.say("And proof of that, too.")
	_, ok := p.shell(ctx, "cd "+evidenceDir+"; sealift attest --nonce $(cat nonce) -o tampered.json")
	p.expect("the host proves what it did", ok)
	return nil
}

// keep copies the evidence out, for whoever wants to look with tools of their own.
func (p *play) keep(ctx context.Context) error {
	root, err := made.Root()
	if err != nil {
		return err
	}
	to := filepath.Join(root, "build", "evidence")
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	list, err := p.n.Run(ctx, "ls", evidenceDir)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(list) {
		b, err := p.n.ReadFile(ctx, evidenceDir+"/"+name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintln(p.w, "   → the files lie in build/evidence")
	return nil
}
