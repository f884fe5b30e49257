package cli

import (
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealift/sealift/attest/ca"
	"github.com/sealift/sealift/attest/certificate"
)

func (a *app) caRevoke(at opened) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "revoke SERIAL|HOST",
		Short: "revoke a certificate, or all of a host's",
		Long: `Revoke and sign a new revocation list. The host's name and its key are free again; a host that was revoked comes back
only by a person's word. Verifiers see it once they have the list.`,
		Example: `  sealift ca revoke web1 --reason "disk was stolen"`,
		Args:    args(1, 1, "the serial number or the host"),
		RunE: at(func(x *ca.CA, args []string) error {
			done, err := x.Revoke(args[0], reason)
			if err != nil {
				return err
			}
			if len(done) == 0 {
				_, err := fmt.Fprintln(a.out, "revoked already")
				return err
			}
			for _, r := range done {
				if _, err := fmt.Fprintf(a.out, "revoked %s of %s\n", r.Serial, r.Host); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "`why`, for the records")
	return c
}

// caRecord is a certificate as list and show print it.
type caRecord struct {
	Serial    string `json:"serial"`
	Host      string `json:"host"`
	Class     string `json:"class"`
	State     string `json:"state"`
	NotBefore string `json:"not_before"`
	NotAfter  string `json:"not_after"`
	AK        string `json:"ak"`
	EK        string `json:"ek"`
	Reason    string `json:"reason,omitempty"`
	PEM       string `json:"pem,omitempty"`
}

func asRecord(r *ca.Record, now time.Time) caRecord {
	state := "good"
	switch {
	case r.Revoked != 0:
		state = "revoked"
	case r.Expired(now):
		state = "expired"
	}
	day := func(t int64) string { return time.Unix(t, 0).UTC().Format(time.RFC3339) }
	return caRecord{Serial: r.Serial, Host: r.Host, Class: string(r.Class), State: state, NotBefore: day(r.NotBefore), NotAfter: day(r.NotAfter),
		AK: hex.EncodeToString(r.AK), EK: hex.EncodeToString(r.EK), Reason: r.Reason}
}

func (a *app) caList(at opened) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the certificates of this CA",
		Long:  `List all certificates that this CA ever signed. With --json one object a line.`,
		Args:  args(0, 0, ""),
		RunE: at(func(x *ca.CA, _ []string) error {
			list, err := x.Records()
			if err != nil {
				return err
			}
			rows := [][]string{{"HOST", "CLASS", "STATE", "UNTIL", "SERIAL"}}
			for _, r := range list {
				c := asRecord(r, time.Now())
				if a.json {
					if err := a.object(c); err != nil {
						return err
					}
					continue
				}
				rows = append(rows, []string{c.Host, c.Class, c.State, c.NotAfter, c.Serial})
			}
			switch {
			case a.json:
				return nil
			case len(list) == 0:
				_, err := fmt.Fprintln(a.out, "no certificate")
				return err
			}
			return a.table(rows)
		}),
	}
}

func (a *app) caShow(at opened) *cobra.Command {
	return &cobra.Command{
		Use:   "show [SERIAL|HOST]",
		Short: "show this CA, or the certificates of a host",
		Long: `Show the CA: its name, what it certifies, its fingerprint, its certificate. Or a certificate, or all of a host's. With
--json an object, or one a line.`,
		Args: args(0, 1, ""),
		RunE: at(func(x *ca.CA, args []string) error {
			if len(args) == 0 {
				return a.showCA(x)
			}
			list, err := x.Find(args[0])
			if err != nil {
				return err
			}
			for i, r := range list {
				c := asRecord(r, time.Now())
				c.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate}))
				if a.json {
					if err := a.object(c); err != nil {
						return err
					}
					continue
				}
				if i > 0 {
					fmt.Fprintln(a.out)
				}
				state := c.State
				if c.Reason != "" {
					state += ": " + printable(c.Reason)
				}
				err := a.table([][]string{{"host", c.Host}, {"class", c.Class}, {"state", state},
					{"valid", c.NotBefore + " to " + c.NotAfter}, {"serial", c.Serial}, {"attestation key", c.AK}, {"endorsement key", c.EK}})
				if err != nil {
					return err
				}
				if _, err := fmt.Fprint(a.out, c.PEM); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

func (a *app) showCA(x *ca.CA) error {
	c := x.Certificate()
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	until := c.NotAfter.UTC().Format(time.RFC3339)
	if a.json {
		return a.object(struct {
			Name        string `json:"name"`
			Kind        string `json:"kind"`
			Fingerprint string `json:"fingerprint"`
			NotAfter    string `json:"not_after"`
			PEM         string `json:"pem"`
		}{x.Name(), string(x.Kind()), certificate.Fingerprint(c), until, text})
	}
	rows := [][]string{{"name", printable(x.Name())}, {"certifies", string(x.Kind())}, {"fingerprint", certificate.Fingerprint(c)}, {"valid until", until}}
	for _, class := range []certificate.Class{certificate.Hardware, certificate.Virtual, certificate.Software} {
		list, err := x.Roots(class)
		if err != nil {
			return err
		}
		for _, r := range list {
			rows = append(rows, []string{string(class), printable(r.Subject.String())})
		}
	}
	if err := a.table(rows); err != nil {
		return err
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}

func (a *app) caServe(dir *string) *cobra.Command {
	var address string
	c := &cobra.Command{
		Use:   "serve",
		Short: "let hosts enrol over the network",
		Long: `Answer "sealift enroll --ca" until a signal. A host is admitted if it brings a token for its name, if its endorsement
key is pinned, or if it holds a certificate of this CA for the same keys; and never after a revocation without a token.
Hosts know this CA by its fingerprint.`,
		Example: `  sealift ca serve --dir ./ca --listen :7443`,
		Args:    args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			x, err := ca.Open(*dir)
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", address)
			if err != nil {
				return fmt.Errorf("CA %s: %w", *dir, err)
			}
			if _, err := fmt.Fprintf(a.out, "serving %s at %s, fingerprint %s\n", printable(x.Name()), l.Addr(), certificate.Fingerprint(x.Certificate())); err != nil {
				return err
			}
			return x.Serve(c.Context(), l, slog.New(slog.NewTextHandler(a.err, nil)))
		},
	}
	c.Flags().StringVar(&address, "listen", ":7443", "`HOST:PORT` to answer at")
	return c
}
