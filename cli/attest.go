package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

type attestOptions struct {
	nonce, namespace, container string
	output                      string
	from                        uint64
	epoch                       string
}

func (a *app) attest() *cobra.Command {
	var o attestOptions
	c := &cobra.Command{
		Use:   "attest",
		Short: "prove what this host booted and started, for a verifier elsewhere",
		Long: `Write evidence: a quote of the TPM, the firmware's, the kernel's and Sealift's log, and the certificates of the
key that made the quote. Anybody can judge it with "sealift verify", without root, network or agent.

A nonce that the verifier chose proves that the evidence is no older than the nonce; without one its age is
unknown. --nonce takes the verifier's, in hex; --nonce new makes one and prints it, which proves something only
to whoever ran this command.

With --namespace the records of other namespaces are closed: the verifier can see that nothing of this one is
missing, and of the others only how many there are. --container closes the namespace's other containers too.`,
		Example: `  sealift attest -o evidence.json
  sealift attest --nonce 5f0c…9a -o evidence.json     the verifier sent the nonce
  sealift attest --namespace red -o red.json          one tenant's proof
  sealift attest --container red/web -o web.json
  sealift attest | ssh laptop sealift verify --trust trust.yaml -`,
		Annotations: map[string]string{"see": "docs/attestation.md: the format, and how to verify it without Sealift"},
		Args:        args(0, 0, ""),
		RunE:        func(c *cobra.Command, _ []string) error { return a.runAttest(c, o) },
	}
	f := c.Flags()
	f.StringVar(&o.nonce, "nonce", "", "the verifier's nonce in `hex`, or new")
	f.StringVarP(&o.namespace, "namespace", "n", "", "only this containerd `namespace` open")
	f.StringVar(&o.container, "container", "", "only this `container` open: NAMESPACE/ID, or ID with --namespace")
	f.StringVarP(&o.output, "output", "o", "-", "write the evidence to this `file`")
	f.Uint64Var(&o.from, "from", 0, "leave out the records before this `number`, for a verifier that holds a checkpoint")
	f.StringVar(&o.epoch, "epoch", "", "the checkpoint's epoch in `hex`; the log of another one is sent whole")
	return c
}

func (a *app) runAttest(c *cobra.Command, o attestOptions) error {
	req := &nodev1.AttestRequest{Namespace: o.namespace, From: o.from}
	var err error
	switch {
	case o.nonce == "new":
		req.Nonce = make([]byte, 32)
		_, err = rand.Read(req.Nonce)
	case o.nonce != "":
		if req.Nonce, err = hex.DecodeString(o.nonce); err != nil || len(req.Nonce) == 0 {
			return usage(c, fmt.Errorf("--nonce %s: not hex", o.nonce))
		}
	}
	if err != nil {
		return err
	}
	if o.container != "" {
		ns, id, ok := strings.Cut(o.container, "/")
		if !ok {
			ns, id = o.namespace, o.container
		}
		switch {
		case ns == "" || id == "":
			return usage(c, fmt.Errorf("--container %s: NAMESPACE/ID, or ID with --namespace", o.container))
		case o.namespace != "" && ns != o.namespace:
			return usage(c, fmt.Errorf("--container %s is not in namespace %s", o.container, o.namespace))
		}
		req.Namespace, req.Container = ns, id
	}
	if (o.from > 1) != (o.epoch != "") {
		return usage(c, errors.New("--from and --epoch belong together"))
	}
	if req.Epoch, err = hex.DecodeString(o.epoch); err != nil {
		return usage(c, fmt.Errorf("--epoch %s: not hex", o.epoch))
	}
	b, err := a.evidence(c.Context(), req)
	if err != nil {
		return err
	}
	if o.nonce == "new" {
		fmt.Fprintf(a.err, "nonce %x\n", req.Nonce)
	}
	if o.output == "-" {
		_, err := a.out.Write(b)
		return err
	}
	if err := writeFile(o.output, b, 0o644); err != nil {
		return fmt.Errorf("evidence: %s: %w", o.output, err)
	}
	return nil
}

// evidence asks the agent.
func (a *app) evidence(ctx context.Context, req *nodev1.AttestRequest) ([]byte, error) {
	var b bytes.Buffer
	err := a.withAgent(ctx, func(n nodev1.NodeClient) error {
		parts, err := n.Attest(ctx, req)
		if err != nil {
			return err
		}
		for {
			p, err := parts.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			b.Write(p.GetData())
		}
	})
	return b.Bytes(), err
}
