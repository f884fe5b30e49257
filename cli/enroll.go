package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
)

type enrollOptions struct {
	ca, fingerprint, host, token string
	renew, owner                 bool
}

// kind is what certificate is wanted.
func (o *enrollOptions) kind() certificate.Kind {
	if o.owner {
		return certificate.Owner
	}
	return certificate.Platform
}

func (a *app) enroll() *cobra.Command {
	var o enrollOptions
	c := &cobra.Command{
		Use:   "enroll",
		Short: "get a certificate for this host's attestation key",
		Long: `Have an AK-CA certify this host's attestation key: the TPM proves to the CA that it holds the key beside its
endorsement key. The CA is asked over the network, known by its fingerprint; or the messages are carried by hand with
"enroll request", "enroll answer" and "enroll store".

With --renew the host keeps the name it has; all is proved again. A host holds one certificate of an AK-CA and one
of its owner's CA.`,
		Example: `  sealift enroll --ca ca.example:7443 --ca-fingerprint 5f0c… --token …
  sealift enroll --renew --ca ca.example:7443 --ca-fingerprint 5f0c…
  sealift enroll request > request.json      sealift ca challenge request.json > challenge.json
  sealift enroll answer challenge.json > answer.json      sealift ca issue answer.json > certificate.json
  sealift enroll store certificate.json`,
		Annotations: map[string]string{"see": seeEnrolment},
		Args:        args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case o.ca == "" || o.fingerprint == "":
				return usage(c, errors.New("--ca and --ca-fingerprint are needed; by hand it goes with enroll request"))
			case o.renew && o.host != "":
				return usage(c, errors.New("--renew keeps the name: --host cannot be given beside it"))
			}
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error { return a.enrolOver(c.Context(), n, o) })
		},
	}
	f := c.Flags()
	f.StringVar(&o.ca, "ca", "", "the CA's `HOST:PORT`")
	f.StringVar(&o.fingerprint, "ca-fingerprint", "", "SHA-256 of the CA's certificate in `hex`")
	f.StringVar(&o.host, "host", "", "the `name` to have (this machine's host name)")
	f.StringVar(&o.token, "token", "", "the `word` that admits this host, or @FILE that holds it")
	f.BoolVar(&o.renew, "renew", false, "renew the certificate this host has")
	f.BoolVar(&o.owner, "owner", false, "with --renew: the owner's")
	c.AddCommand(a.enrollRequest(), a.enrollAnswer(), a.enrollStore())
	return c
}

func (a *app) enrolOver(ctx context.Context, n nodev1.NodeClient, o enrollOptions) error {
	cl, err := enroll.NewClient(o.ca, o.fingerprint)
	if err != nil {
		return err
	}
	defer cl.Close()
	begun, err := a.begin(ctx, n, o)
	if err != nil {
		return err
	}
	challenge, err := cl.Challenge(ctx, begun.GetRequest())
	if err != nil {
		return refusedByCA(err)
	}
	answer, err := n.EnrollAnswer(ctx, &nodev1.EnrollAnswerRequest{Challenge: challenge, Host: begun.GetHost()})
	if err != nil {
		return err
	}
	result, err := cl.Issue(ctx, answer.GetAnswer())
	if err != nil {
		return refusedByCA(err)
	}
	return a.finish(ctx, n, result, o.fingerprint)
}

func refusedByCA(err error) error {
	var no *enroll.RefusedError
	if errors.As(err, &no) {
		return &noError{err}
	}
	return err
}

func (a *app) begin(ctx context.Context, n nodev1.NodeClient, o enrollOptions) (*nodev1.EnrollBeginResponse, error) {
	token := o.token
	if file, ok := strings.CutPrefix(token, "@"); ok {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		token = strings.TrimSpace(string(b))
	}
	host := o.host
	if host == "" && !o.renew {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("host name: %w", err)
		}
		host = strings.ToLower(name)
	}
	r, err := n.EnrollBegin(ctx, &nodev1.EnrollBeginRequest{Host: host, Token: token, Kind: string(o.kind())})
	if err != nil {
		return nil, err
	}
	if r.GetProblem() != "" {
		fmt.Fprintln(a.err, "sealift: endorsement key: "+printable(r.GetProblem()))
	}
	return r, nil
}

func (a *app) finish(ctx context.Context, n nodev1.NodeClient, result []byte, fingerprint string) error {
	r, err := n.EnrollFinish(ctx, &nodev1.EnrollFinishRequest{Result: result, AuthorityFingerprint: fingerprint})
	if err != nil {
		return err
	}
	if a.json {
		return a.message(r)
	}
	_, err = fmt.Fprintf(a.out, "%s is certified by %s (%s) as %s, until %s\n", r.GetHost(), printable(r.GetAuthority()), r.GetKind(), r.GetClass(),
		time.Unix(r.GetNotAfterUnix(), 0).UTC().Format(time.RFC3339))
	return err
}

func (a *app) enrollRequest() *cobra.Command {
	var o enrollOptions
	c := &cobra.Command{
		Use:   "request",
		Short: "write the request that a CA makes a challenge for",
		Long:  `Write this host's request: its keys' public parts, the endorsement key's certificate, and a quote that shows where the attestation key lives. It holds no secret.`,
		Args:  args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error {
				r, err := a.begin(c.Context(), n, o)
				if err != nil {
					return err
				}
				_, err = a.out.Write(r.GetRequest())
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&o.host, "host", "", "the `name` to have (this machine's host name)")
	f.BoolVar(&o.renew, "renew", false, "renew the certificate this host has")
	f.BoolVar(&o.owner, "owner", false, "with --renew: the owner's")
	return c
}

func (a *app) enrollAnswer() *cobra.Command {
	return &cobra.Command{
		Use:   "answer CHALLENGE",
		Short: "answer a CA's challenge",
		Long:  `Have the TPM open the challenge and write the answer. It is good once.`,
		Args:  args(1, 1, "the file"),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.enrolMessage(args[0])
			if err != nil {
				return err
			}
			var challenge enroll.Challenge
			if err := enroll.Decode(b, &challenge); err != nil {
				return err
			}
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error {
				r, err := n.EnrollAnswer(c.Context(), &nodev1.EnrollAnswerRequest{Challenge: b, Host: challenge.Host})
				if err != nil {
					return err
				}
				_, err = a.out.Write(r.GetAnswer())
				return err
			})
		},
	}
}

func (a *app) enrollStore() *cobra.Command {
	var fingerprint string
	c := &cobra.Command{
		Use:   "store CERTIFICATE",
		Short: "keep the certificate that a CA issued",
		Long:  `Check that the certificate is for this host's attestation key, and keep it: evidence bears it from then on.`,
		Args:  args(1, 1, "the file"),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.enrolMessage(args[0])
			if err != nil {
				return err
			}
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error { return a.finish(c.Context(), n, b, fingerprint) })
		},
	}
	c.Flags().StringVar(&fingerprint, "ca-fingerprint", "", "SHA-256 of the certificate of the CA it must be by, in `hex`")
	return c
}
