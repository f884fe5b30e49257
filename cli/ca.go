package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealift/sealift/attest/ca"
	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/attest/key"
)

const seeEnrolment = "docs/attestation.md: what a certificate says and what it rests on"

func (a *app) ca() *cobra.Command {
	c := &cobra.Command{
		Use:   "ca",
		Short: "run an AK-CA: say which keys are in which kind of TPM",
		Long: `An AK-CA certifies hosts' attestation keys, each after the host's TPM has proved that it holds the key beside
its endorsement key. The certificate says what stands behind it: hardware or virtual where the TPM maker's root
is in that store of this CA, pinned-unknown where a person entered the endorsement key, software for emulators.

A CA is a directory. It needs no TPM, no root and no agent, and only "serve" a network.`,
		Example: `  sealift ca init --name "Example AK-CA" ./ca
  sealift ca add-ek-root --dir ./ca --class hardware infineon.pem
  sealift ca challenge --dir ./ca request.json > challenge.json      the host made request.json
  sealift ca issue --dir ./ca answer.json > certificate.json         and answer.json
  sealift ca revoke --dir ./ca web1 && sealift ca crl --dir ./ca > ca.crl`,
		Annotations: map[string]string{"see": seeEnrolment},
		Args:        args(0, 0, ""),
		RunE:        func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var dir string
	with := func(c *cobra.Command) *cobra.Command {
		c.Flags().StringVar(&dir, "dir", ".", "the CA's `directory`")
		return c
	}
	at := func(f func(*ca.CA, []string) error) func(*cobra.Command, []string) error {
		return func(_ *cobra.Command, args []string) error {
			x, err := ca.Open(dir)
			if err != nil {
				return err
			}
			return refusal(f(x, args))
		}
	}
	c.AddCommand(a.caInit(), with(a.caAddRoot(at)), with(a.caPin(at)), with(a.caToken(at)), with(a.caAnswer("challenge", "REQUEST", "make the challenge for a host's request",
		`Examine a host's request and write the challenge that only its TPM can answer. To call this is to admit the host.
A request whose TPM is not known is refused, with what would admit it.`, at, (*ca.CA).Challenge)),
		with(a.caAnswer("issue", "ANSWER", "check a host's answer and write its certificate",
			`Check the answer to a challenge and write the certificate. A challenge is used up by its first answer, right or wrong,
and expires by itself.`, at, (*ca.CA).Issue)),
		with(a.caRevoke(at)), with(a.caCRL(&dir)), with(a.caList(at)), with(a.caShow(at)), with(a.caServe(&dir)))
	return c
}

// opened makes a command's run function of one that wants the CA.
type opened = func(func(*ca.CA, []string) error) func(*cobra.Command, []string) error

// refusal makes a no of what is one.
func refusal(err error) error {
	var r *ca.Refusal
	if errors.As(err, &r) || errors.Is(err, fs.ErrNotExist) && !isPath(err) {
		return &noError{err}
	}
	return err
}

// isPath tells a file that is not there from a certificate that is not.
func isPath(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p)
}

func (a *app) caInit() *cobra.Command {
	var o ca.Options
	var owner bool
	var life, revocation, own time.Duration
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "make a CA",
		Long: `Make a CA in a directory that is empty or not there: its key, its certificate, its configuration. The directory is
the CA: who has it can certify anything, and without it nothing can be revoked.

With --owner it is the CA of whoever owns the hosts: its certificates say "this host is mine", for trust policies
that want two.`,
		Example: `  sealift ca init --name "Example AK-CA" ./ca
  sealift ca init --owner --name "Example Corp" ./owner`,
		Args: args(1, 1, "the directory"),
		RunE: func(c *cobra.Command, args []string) error {
			for _, d := range []time.Duration{own, life, revocation} {
				if d <= 0 {
					return usage(c, fmt.Errorf("a lifetime of %v: it must be more than zero", d))
				}
			}
			if owner {
				o.Kind = certificate.Owner
			}
			o.Lifetime, o.Config = own, ca.Config{Certificate: ca.Duration(life), Revocation: ca.Duration(revocation)}
			x, err := ca.Init(args[0], o)
			if err != nil {
				return err
			}
			return a.showCA(x)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Name, "name", "", "the CA's `name`, as it stands in every certificate")
	f.BoolVar(&owner, "owner", false, "a CA of owner certificates")
	f.StringVar(&o.KeyType, "key-type", "ecdsa-p256", "ecdsa-p256, ecdsa-p384 or ed25519")
	f.DurationVar(&own, "ca-lifetime", 10*365*24*time.Hour, "how `long` the CA's own certificate is good")
	f.DurationVar(&life, "lifetime", 30*24*time.Hour, "how `long` a certificate is good")
	f.DurationVar(&revocation, "crl-lifetime", 7*24*time.Hour, "how `long` a revocation list is good")
	return c
}

func (a *app) caAddRoot(at opened) *cobra.Command {
	var class string
	c := &cobra.Command{
		Use:   "add-ek-root FILE",
		Short: "trust a TPM maker's root for one class",
		Long: `Take certificates, PEM or one of DER, into the store of a class: self-signed ones are trusted, others help to build
chains to those. An endorsement key that chains to a root has that class, but for emulators, which are
software unless their root is in the store for virtual TPMs.`,
		Example: `  sealift ca add-ek-root --class hardware OptigaRsaRootCA.pem
  sealift ca add-ek-root --class virtual cloud-vtpm-root.pem`,
		Args: args(1, 1, "the file"),
		RunE: at(func(x *ca.CA, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("endorsement root: %w", err)
			}
			list, err := x.AddEKRoot(certificate.Class(class), b)
			if err != nil {
				return err
			}
			for _, c := range list {
				what := "root"
				if string(c.RawIssuer) != string(c.RawSubject) {
					what = "intermediate"
				}
				if _, err := fmt.Fprintf(a.out, "%s %s: %s\n", class, what, printable(c.Subject.String())); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().StringVar(&class, "class", "", "hardware, virtual or software")
	return c
}

func (a *app) caPin(at opened) *cobra.Command {
	var host string
	c := &cobra.Command{
		Use:   "pin-ek FINGERPRINT|REQUEST",
		Short: "admit one TPM that no maker vouches for",
		Long: `Admit the TPM with this endorsement key: its hosts get the class pinned-unknown, or software if it is an emulator. The
key is named by SHA-256 of its SubjectPublicKeyInfo in hex, which a refused challenge prints, or by a file that
holds a host's request: be sure then whose it is.`,
		Example: `  sealift ca pin-ek --host lab1 request.json`,
		Args:    args(1, 1, "the fingerprint or the request"),
		RunE: at(func(x *ca.CA, args []string) error {
			f, err := ekFingerprint(args[0])
			if err != nil {
				return err
			}
			if err := x.PinEK(f, host); err != nil {
				return err
			}
			as := ""
			if host != "" {
				as = " as " + host
			}
			_, err = fmt.Fprintf(a.out, "pinned %x%s\n", f, as)
			return err
		}),
	}
	c.Flags().StringVar(&host, "host", "", "the only `name` it may have")
	return c
}

func ekFingerprint(text string) ([sha256.Size]byte, error) {
	if b, err := hex.DecodeString(strings.ReplaceAll(text, ":", "")); err == nil && len(b) == sha256.Size {
		return [sha256.Size]byte(b), nil
	}
	b, err := os.ReadFile(text)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("endorsement key: neither %d bytes of hex nor a file: %w", sha256.Size, err)
	}
	var r enroll.Request
	if err := enroll.Decode(b, &r); err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("%s: %w", text, err)
	}
	p, err := key.ParsePublic(r.EK)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("%s: endorsement key: %w", text, err)
	}
	return certificate.EKFingerprint(p.Key())
}

func (a *app) caToken(at opened) *cobra.Command {
	var life time.Duration
	c := &cobra.Command{
		Use:   "token HOST",
		Short: "let one host enrol over the network, once",
		Long:  `Print a word that admits a host of this name at "sealift ca serve", once. It does not vouch for the host's TPM.`,
		Args:  args(1, 1, "the host's name"),
		RunE: at(func(x *ca.CA, args []string) error {
			if life <= 0 {
				return fmt.Errorf("token: a lifetime of %v admits nobody", life)
			}
			word, err := x.NewToken(args[0], life)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, word)
			return err
		}),
	}
	c.Flags().DurationVar(&life, "lifetime", time.Hour, "how `long` it is good")
	return c
}

// caAnswer is a command that turns one message into another.
func (a *app) caAnswer(name, arg, short, long string, at opened, f func(*ca.CA, []byte) ([]byte, error)) *cobra.Command {
	return &cobra.Command{
		Use: name + " " + arg, Short: short, Long: long,
		Example: "  sealift ca " + name + " " + strings.ToLower(arg) + ".json\n  … | sealift ca " + name + " -",
		Args:    args(1, 1, "the file"),
		RunE: at(func(x *ca.CA, args []string) error {
			b, err := a.enrolMessage(args[0])
			if err != nil {
				return err
			}
			out, err := f(x, b)
			if err != nil {
				return err
			}
			_, err = a.out.Write(out)
			return err
		}),
	}
}

// enrolMessage reads an enrolment message from a file, or from standard input.
func (a *app) enrolMessage(file string) ([]byte, error) {
	r := a.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("enrolment message: %w", err)
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, enroll.MaxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("enrolment message: %w", err)
	}
	return b, nil
}

func (a *app) caCRL(dir *string) *cobra.Command {
	var asPEM bool
	var address, fingerprint string
	c := &cobra.Command{
		Use:   "crl",
		Short: "sign and write a revocation list, or fetch the present one",
		Long: `Sign a new revocation list and write it, DER. Verifiers want one that is in date: give it to them at least as often
as crl_lifetime in ca.toml says. With --ca the present list of a CA on a network is fetched instead.`,
		Example: `  sealift ca crl --dir ./ca > ca.crl
  sealift ca crl --ca ca.example:7443 --ca-fingerprint 5f0c… > ca.crl`,
		Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if (address == "") != (fingerprint == "") {
				return usage(c, errors.New("--ca and --ca-fingerprint belong together"))
			}
			b, err := revocationList(c.Context(), *dir, address, fingerprint)
			if err != nil {
				return err
			}
			if asPEM {
				b = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: b})
			}
			_, err = a.out.Write(b)
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&asPEM, "pem", false, "write PEM")
	f.StringVar(&address, "ca", "", "fetch from the CA at this `HOST:PORT`")
	f.StringVar(&fingerprint, "ca-fingerprint", "", "SHA-256 of that CA's certificate in `hex`")
	return c
}

// revocationList is a new list of the CA in dir, or the present one of the CA at address.
func revocationList(ctx context.Context, dir, address, fingerprint string) ([]byte, error) {
	if address == "" {
		x, err := ca.Open(dir)
		if err != nil {
			return nil, err
		}
		return x.NewList()
	}
	cl, err := enroll.NewClient(address, fingerprint)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return cl.List(ctx)
}
