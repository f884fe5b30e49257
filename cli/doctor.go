package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealift/sealift/cli/doctor"
	"github.com/sealift/sealift/measure/reference"
	"github.com/sealift/sealift/policy"
)

func (a *app) doctor() *cobra.Command {
	p := doctor.Paths{
		TPM:         "/dev/tpmrm0",
		Embedded:    "unix:/run/sealift/swtpm.sock",
		PolicyDir:   policy.Dir,
		TrustDir:    reference.TrustDir,
		Containerds: []string{"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock", "/run/docker/containerd/containerd.sock"},
		StateDir:    "/var/lib/sealift",
	}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "try what this machine can hold, and say what to change",
		Long: `Try everything Sealift stands on, and say for each thing whether it works and what to do if not. Nothing is guessed
from version numbers: overlays are mounted, the PCR is read, a BPF program has to deny something. Nothing is changed;
what is tried is tried in a mount namespace of its own.

  ok       there, and it works
  note     works, but you should know something
  absent   not there, and not required; the hint says what it would bring
  missing  required, and not there or not working: the exit status is 1
  unknown  could not be tried

With --json the answer is one object: {"ok": …, "checks": [{"name", "state", "detail", "hint"}]}.`,
		Example: `  sealift doctor
  sealift doctor --json | jq '.checks[] | select(.state == "missing")'`,
		Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			p.Socket = a.socket
			results := doctor.Run(c.Context(), p)
			if err := a.showDoctor(results); err != nil {
				return err
			}
			if !doctor.Healthy(results) {
				return errTold
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&p.PolicyDir, "policies", p.PolicyDir, "look for policies in this `directory`")
	f.StringVar(&p.TrustDir, "trust", p.TrustDir, "look for trusted keys in this `directory`")
	f.StringArrayVar(&p.Containerds, "containerd", p.Containerds, "look for containerd at this `socket`; may be repeated")
	f.StringVar(&p.TPM, "tpm", p.TPM, "look for a TPM at this `device`")
	return c
}

func (a *app) showDoctor(results []doctor.Result) error {
	if a.json {
		return a.object(struct {
			OK     bool            `json:"ok"`
			Checks []doctor.Result `json:"checks"`
		}{doctor.Healthy(results), results})
	}
	for _, r := range results {
		if _, err := fmt.Fprintf(a.out, "%-8s %-11s %s\n", r.State, r.Name, printable(r.Detail)); err != nil {
			return err
		}
		if r.Hint != "" && r.State != doctor.Good {
			if _, err := fmt.Fprintf(a.out, "%20s hint: %s\n", "", printable(r.Hint)); err != nil {
				return err
			}
		}
	}
	return nil
}
