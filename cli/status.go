package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
)

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show the agent, the TPM, the log and the containers of this host",
		Long: `Show what the agent knows: its TPM and the PCR's value, whether the event log can be trusted, which
containers started through Sealift, which did not, and the policies that are loaded.

The exit status is 1 while the log is in a state in which new starts are refused, so that a script can wait or
alarm on it. Containers that bypass Sealift are shown and do not change the exit status.`,
		Example: `  sealift status
  sealift status --json | jq -r '.containers[] | select(.state == "unproven") | .id'`,
		Annotations: map[string]string{"see": "docs/operations.md: what each state of the log means and what to do"},
		Args:        args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error { return a.showStatus(c.Context(), n) })
		},
	}
}

func (a *app) showStatus(ctx context.Context, n nodev1.NodeClient) error {
	s, err := n.Status(ctx, &nodev1.StatusRequest{})
	if err != nil {
		return err
	}
	if a.json {
		err = a.message(s)
	} else {
		err = a.table(statusRows(s))
	}
	if err != nil {
		return err
	}
	if !a.json {
		if err := a.containers("container", s.GetContainers()); err != nil {
			return err
		}
		if err := a.containers("not through Sealift", s.GetBypassing()); err != nil {
			return err
		}
		if err := a.images(s.GetImages()); err != nil {
			return err
		}
	}
	if !startsAllowed(s) {
		return errTold
	}
	return nil
}

// startsAllowed reports whether the log's state lets containers start.
func startsAllowed(s *nodev1.StatusResponse) bool {
	l := s.GetLog()
	return eventlog.State{Name: eventlog.Name(l.GetState()), Acknowledged: l.GetAcknowledged(), Class: tpm.Class(s.GetTpm().GetClass())}.AllowsStarts()
}

func statusRows(s *nodev1.StatusResponse) [][]string {
	t, l := s.GetTpm(), s.GetLog()
	up := ""
	if at := s.GetStartedUnixNano(); at != 0 {
		up = ", up " + ago(time.Since(time.Unix(0, at)))
	}
	rows := [][]string{
		{"agent", s.GetBuild() + up},
		{"tpm", fmt.Sprintf("%s (%s, %s), PCR %d", t.GetDevice(), t.GetClass(), dash(t.GetManufacturer()), t.GetPcr())},
	}
	if t.GetError() != "" {
		rows = append(rows, []string{"", printable(firstLine(t.GetError()))})
	}
	rows = append(rows, bankRows(t.GetValues())...)
	state := l.GetState()
	if l.GetAcknowledged() {
		state += " (acknowledged)"
	}
	rows = append(rows, []string{"log", fmt.Sprintf("%s, %d records in %d batches, epoch %.12s", state, l.GetSeq(), l.GetBatches(), l.GetEpoch())})
	if l.GetReason() != "" {
		rows = append(rows, []string{"", printable(l.GetReason())})
	}
	if !startsAllowed(s) {
		rows = append(rows, []string{"", "new starts are refused in this state"})
	}
	if l.GetHint() != "" {
		rows = append(rows, []string{"", "hint: " + l.GetHint()})
	}
	policies := "none; defaults hold: content enforced, the rest recorded"
	if n := len(s.GetPolicies()); n > 0 {
		policies = strconv.Itoa(n)
	}
	rows = append(rows, []string{"policies", policies})
	for _, p := range s.GetPolicies() {
		rows = append(rows, []string{"", fmt.Sprintf("%s (%s, %s)", p.GetName(), p.GetFile(), short(p.GetDigest()))})
	}
	return rows
}

// bankRows shows one bank in full and names the others: a person compares one.
func bankRows(values map[string]string) [][]string {
	if len(values) == 0 {
		return nil
	}
	names := sortedKeys(values)
	i := max(0, slices.Index(names, "sha256"))
	row := names[i] + " " + values[names[i]]
	if others := slices.Delete(slices.Clone(names), i, i+1); len(others) > 0 {
		row += " (and " + strings.Join(others, ", ") + ")"
	}
	return [][]string{{"", row}}
}

func (a *app) containers(title string, list []*nodev1.Container) error {
	if len(list) == 0 {
		return nil
	}
	s := ""
	if len(list) > 1 && title == "container" {
		s = "s"
	}
	if _, err := fmt.Fprintf(a.out, "\n%d %s%s\n", len(list), title, s); err != nil {
		return err
	}
	rows := [][]string{{"NAMESPACE", "ID", "IMAGE", "STATE", "BINDING", "RECORD"}}
	for _, c := range list {
		state, record := c.GetState(), "-"
		if c.GetWouldRefuse() {
			state += ", would have been refused"
		}
		if c.GetSeq() != 0 {
			record = strconv.FormatUint(c.GetSeq(), 10)
		}
		rows = append(rows, []string{printable(c.GetNamespace()), printable(c.GetId()), dash(printable(c.GetImage())), dash(state), dash(c.GetBinding()), record})
	}
	return a.table(rows)
}

// images shows those images that somebody should look at.
func (a *app) images(list []*nodev1.ImageState) error {
	rows := [][]string{{"NAMESPACE", "IMAGE", "STATE", "DETAIL"}}
	for _, i := range list {
		if slices.Contains([]string{"mismatch", "failed", "measuring"}, i.GetState()) {
			rows = append(rows, []string{printable(i.GetNamespace()), printable(i.GetName()), i.GetState(), printable(i.GetDetail())})
		}
	}
	if len(rows) == 1 {
		return nil
	}
	if _, err := fmt.Fprintln(a.out, "\nimages to look at"); err != nil {
		return err
	}
	return a.table(rows)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
