package cli

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/internal/strictyaml"
)

type verifyOptions struct {
	trust, nonce, issued, now, state string
	lists                            []string
	namespace, container, host       string
	export, watch                    string
	tree, print                      bool
}

func (a *app) verify() *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify EVIDENCE",
		Short: "judge a host's evidence, claim by claim",
		Long: `Judge what "sealift attest" wrote on a host, here, without root, network or agent. "-" reads standard input.

The answer is yes only if every claim that the trust policy requires has a word for it and none has a word
against it. Each is said with its reason and with whose word it rests on:

  instance-identity  the key that quotes is that of the host you know
  hardware           the TPM is what its certificate says
  freshness          it was made after you asked
  configuration      boot, log and policies are as you accept them
  executables        boot loader, kernel and Sealift are programs you know
  file-system        the containers are of images you know, and kept to their policies

What is marked with "!" was not proven: the trust policy chose to accept it.

The trust policy names the CAs and what else to accept; a key that is missing means the strictest, so an empty
one trusts nothing. --print-trust shows the one in effect, and without a file an example to begin with.

With --state a file keeps what was proven: the next time only the log's new lines are needed (sealift attest
--from), and a host that goes back behind it is found out. The file is your own: whoever can write it decides
the verdict.`,
		Example: `  sealift verify --trust trust.yaml --nonce 5f0c…9a --crl fleet.crl evidence.json
  sealift verify --tree evidence.json                 what stands on what
  sealift verify --state host-a.state evidence.json   and remember it
  sealift verify --watch node-b                       what changes about a peer of this host
  sealift verify --print-trust >trust.yaml            an example to begin with
  sealift verify --export-tpm2 DIR evidence.json      for tpm2_checkquote and tpm2_eventlog`,
		Annotations: map[string]string{
			"see":  "docs/attestation.md: the trust policy, the claims and what each rests on, and how to verify without Sealift",
			"exit": "0    trusted\n1    not trusted\n2    the command line or the trust policy is wrong\n3    unusable: what was given is not evidence, or not a state file\n4    a file cannot be read or written\n130  interrupted",
		},
		Args: func(c *cobra.Command, got []string) error {
			if o.print || o.watch != "" {
				return args(0, 0, "")(c, got)
			}
			return args(1, 1, "EVIDENCE")(c, got)
		},
		RunE: func(c *cobra.Command, got []string) error {
			if o.print {
				return a.printTrust(o.trust)
			}
			if o.watch != "" {
				return a.watchPeer(c, o.watch)
			}
			return a.runVerify(c, o, got[0])
		},
	}
	f := c.Flags()
	f.StringVar(&o.trust, "trust", "", "the trust policy (trust.yaml) in this `file`")
	f.StringVar(&o.nonce, "nonce", "", "the nonce you gave the host, in `hex`")
	f.StringVar(&o.issued, "nonce-issued", "", "when you gave it out: a `time` as 2026-01-02T03:04:05Z")
	f.StringArrayVar(&o.lists, "crl", nil, "a CA's revocation list in this `file`; may be given again")
	f.StringVar(&o.state, "state", "", "keep what was proven in this `file`, and go on from it")
	f.StringVar(&o.now, "now", "", "judge as of this `time` instead of now")
	f.StringVarP(&o.namespace, "namespace", "n", "", "the evidence is this `namespace`'s view")
	f.StringVar(&o.container, "container", "", "the evidence is this container's: NAMESPACE/ID")
	f.StringVar(&o.host, "host", "", "it must be this host")
	f.StringVar(&o.export, "export-tpm2", "", "also write quote, key and log for tpm2-tools into this `directory`")
	f.StringVar(&o.watch, "watch", "", "follow how this `peer` stands (sealift peer add), and print only what changes")
	f.BoolVar(&o.tree, "tree", false, "draw what stands on what")
	f.BoolVar(&o.print, "print-trust", false, "print the trust policy in effect, and judge nothing")
	return c
}

// watchPeer follows one peer of this host's agent, which judges it by its own
// trust policy; the other flags have no say in that.
func (a *app) watchPeer(c *cobra.Command, name string) error {
	var other string
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "watch" && c.LocalNonPersistentFlags().Lookup(f.Name) != nil {
			other = f.Name
		}
	})
	if other != "" {
		return usage(c, fmt.Errorf("--%s is for evidence: a peer is judged by the agent, as its configuration says (attest)", other))
	}
	_, err := a.peers(c.Context(), &nodev1.WatchPeersRequest{Name: name, Follow: true})
	return err
}

// unusableError is an input that cannot be judged.
type unusableError struct{ err error }

func (e *unusableError) Error() string { return e.err.Error() }
func (e *unusableError) Unwrap() error { return e.err }

const defaultTrust = "trust.yaml"

// loadTrust reads the trust policy; without a name trust.yaml of the present
// directory.
func loadTrust(c *cobra.Command, name string) (*trust.Policy, error) {
	named := name != ""
	if !named {
		name = defaultTrust
	}
	p, err := trust.Load(name)
	switch {
	case strictyaml.AsErrors(err) != nil:
		return nil, &badTrustError{err}
	case !named && errors.Is(err, fs.ErrNotExist):
		return nil, usage(c, errors.New("no trust policy: there is no trust.yaml here, and --trust names none\nhint: sealift verify --print-trust >trust.yaml writes an example"))
	}
	return p, err
}

// badTrustError is a trust policy that cannot be taken as one.
type badTrustError struct{ err error }

func (e *badTrustError) Error() string { return e.err.Error() }
func (e *badTrustError) Unwrap() error { return e.err }

func (a *app) printTrust(name string) error {
	text := trust.Example
	if name != "" {
		p, err := loadTrust(nil, name)
		if err != nil {
			return err
		}
		text = p.Print()
	}
	_, err := io.WriteString(a.out, text)
	return err
}

func (a *app) runVerify(c *cobra.Command, o verifyOptions, file string) error {
	in, err := o.input(c)
	if err != nil {
		return err
	}
	if in.Evidence, err = a.readEvidence(file); err != nil {
		return err
	}
	v := verify.Appraise(in)
	if o.state != "" && v.Next != nil {
		b, err := v.Next.Encode()
		if err != nil {
			return err
		}
		// What a namespace's view opens, the state remembers.
		if err := writeFile(o.state, b, 0o600); err != nil {
			return fmt.Errorf("state: %s: %w", o.state, err)
		}
	}
	if o.export != "" && v.Result != verify.Unusable {
		e, err := evidence.Decode(in.Evidence)
		if err != nil {
			return &unusableError{err}
		}
		if err := e.Export(o.export); err != nil {
			return err
		}
	}
	switch {
	case a.json:
		err = a.object(v)
	case v.Result == verify.Unusable:
		return &unusableError{fmt.Errorf("%s: %s", file, unusable(v))}
	case o.tree:
		err = a.showTree(v)
	default:
		err = a.showVerdict(v)
	}
	switch {
	case err != nil || v.Result == verify.Trusted:
		return err
	case v.Result == verify.Unusable:
		return &unusableError{errTold}
	}
	return errTold
}

// unusable is why.
func unusable(v *verify.Verdict) string {
	for _, c := range v.Claims {
		for _, r := range c.Reasons {
			return printable(r.Message)
		}
	}
	return "cannot be judged"
}

// input gathers what the verdict depends on besides the evidence.
func (o *verifyOptions) input(c *cobra.Command) (verify.Input, error) {
	in := verify.Input{Now: time.Now()}
	var err error
	for _, t := range []struct {
		flag, text string
		into       *time.Time
	}{{"--now", o.now, &in.Now}, {"--nonce-issued", o.issued, &in.Expect.Issued}} {
		if t.text == "" {
			continue
		}
		if *t.into, err = time.Parse(time.RFC3339, t.text); err != nil {
			return in, usage(c, fmt.Errorf("%s %s: not a time as 2026-01-02T03:04:05Z", t.flag, t.text))
		}
		if t.into.IsZero() { // which stands for none
			return in, usage(c, fmt.Errorf("%s %s: too long ago", t.flag, t.text))
		}
	}
	if o.nonce != "" {
		if in.Expect.Binding.VerifierNonce, err = hex.DecodeString(o.nonce); err != nil {
			return in, usage(c, fmt.Errorf("--nonce %s: not hex", o.nonce))
		}
	}
	in.Expect.Host, in.Expect.Namespace = o.host, o.namespace
	if o.container != "" {
		ns, id, ok := strings.Cut(o.container, "/")
		if !ok {
			ns, id = o.namespace, o.container
		}
		if ns == "" || id == "" || (o.namespace != "" && o.namespace != ns) {
			return in, usage(c, fmt.Errorf("--container %s: NAMESPACE/ID, or ID with --namespace", o.container))
		}
		in.Expect.Namespace, in.Expect.Container = ns, id
	}
	if in.Trust, err = loadTrust(c, o.trust); err != nil {
		return in, err
	}
	for _, name := range o.lists {
		b, err := certificate.ReadLists(name)
		var none *certificate.NotAListError
		if errors.As(err, &none) {
			return in, usage(c, fmt.Errorf("--crl %w", err))
		}
		if err != nil {
			return in, err
		}
		in.Revocation = append(in.Revocation, b)
	}
	if o.state == "" {
		return in, nil
	}
	f, err := os.Open(o.state)
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	if err != nil {
		return in, fmt.Errorf("state: %w", err)
	}
	defer f.Close() // read only
	// It says less than the evidence that it comes from.
	b, err := io.ReadAll(io.LimitReader(f, evidence.MaxSize+1))
	if err != nil {
		return in, fmt.Errorf("state: %w", err)
	}
	if len(b) > evidence.MaxSize {
		return in, &unusableError{fmt.Errorf("%s: state: longer than %d bytes\nhint: it is what --state wrote", o.state, evidence.MaxSize)}
	}
	if in.Prior, err = verify.DecodeCheckpoint(b); err != nil {
		return in, &unusableError{fmt.Errorf("%s: %w", o.state, err)}
	}
	return in, nil
}

// readEvidence reads as much as evidence can be, and a byte more.
func (a *app) readEvidence(file string) ([]byte, error) {
	const hint = "\nhint: evidence is a file that sealift attest wrote, or - for standard input"
	from := a.stdin
	var room bytes.Buffer
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("evidence: %w%s", err, hint)
		}
		defer f.Close() // read only
		// All of it at once: a buffer that grows holds it twice and more.
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			if st.Size() > evidence.MaxSize {
				return nil, &unusableError{fmt.Errorf("%s: evidence: %d bytes are more than %d\nhint: give the verifier a state file (--state), so that only the log's new lines are sent", file, st.Size(), evidence.MaxSize)}
			}
			room.Grow(int(st.Size()) + bytes.MinRead)
		}
		from = f
	}
	if _, err := room.ReadFrom(io.LimitReader(from, evidence.MaxSize+1)); err != nil {
		return nil, fmt.Errorf("evidence: %w%s", err, hint)
	}
	return room.Bytes(), nil
}
