package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
)

// verifyLog replays the log against values, or against the TPM where none are
// given.
func (a *app) verifyLog(ctx context.Context, o logOptions, values tpm.Values) error {
	if len(values) == 0 {
		// The value first: what the log gains meanwhile lies behind it then, and
		// the replay finds it within.
		var err error
		if values, err = a.readPCR(ctx, o); err != nil {
			return err
		}
	}
	lines, err := a.lines(ctx, o)
	if err != nil {
		return err
	}
	r, err := eventlog.Verify(lines, values)
	var bad *eventlog.LineError
	if errors.As(err, &bad) {
		return no("log: %w\nhint: the stored log was changed or cut; the agent's own state is shown by sealift status", err)
	}
	if err != nil {
		return err
	}
	if err := a.showReport(r, values); err != nil {
		return err
	}
	if !r.Proven() {
		return errTold
	}
	return nil
}

// readPCR reads the PCR that the log is about.
func (a *app) readPCR(ctx context.Context, o logOptions) (tpm.Values, error) {
	device, pcr := o.device, 0
	if o.local() {
		// Which PCR it is stands in the log.
		if o.file == "-" {
			return nil, errors.New("verify: standard input can be read only once\nhint: give the PCR's value with --value")
		}
		lines, err := a.lines(ctx, o)
		if err != nil {
			return nil, err
		}
		r, err := eventlog.Verify(lines, nil)
		if err != nil {
			return nil, &noError{err}
		}
		pcr = r.PCR
	} else {
		err := a.withAgent(ctx, func(n nodev1.NodeClient) error {
			s, err := n.Status(ctx, &nodev1.StatusRequest{})
			pcr = int(s.GetTpm().GetPcr())
			if device == "" {
				device = s.GetTpm().GetDevice()
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if device == "" {
		return nil, errors.New("verify: no TPM is named\nhint: --tpm /dev/tpmrm0, or the PCR's value with --value")
	}
	d, err := tpm.Open(ctx, device)
	if err != nil {
		return nil, err
	}
	values, err := d.ReadPCR(ctx, pcr)
	return values, errors.Join(err, d.Close())
}

func parseValues(texts []string) (tpm.Values, error) {
	m := map[string]string{}
	for _, text := range texts {
		bank, digits, ok := strings.Cut(text, ":")
		if _, dup := m[bank]; !ok || dup {
			return nil, fmt.Errorf("value %q: wanted BANK:HEX, as sha256:9c1b…, once a bank", text)
		}
		m[bank] = strings.TrimPrefix(strings.ToLower(digits), "0x")
	}
	return tpm.ParseValues(m)
}

// verdict says in words what a report means.
func verdict(r *eventlog.Report) string {
	switch {
	case r.Match == eventlog.MatchNone:
		return "not proven: the TPM's value is at no place of the log"
	case r.ProvenFrom > 1:
		return fmt.Sprintf("not proven: the value follows from record %d on only; somebody else extended the PCR before it", r.ProvenFrom)
	case !r.Initial.IsZero():
		return "not proven: the PCR was not zero when the log began, and nothing here says why"
	case r.Proven() && r.Unextended > 0:
		return fmt.Sprintf("proven: the value follows from records 1 to %d; %d later ones were added since it was read", r.MatchedSeq, r.Unextended)
	case r.Proven():
		return fmt.Sprintf("proven: the value follows from the log, records 1 to %d", r.MatchedSeq)
	}
	return fmt.Sprintf("not proven: the log says of itself that it is %s: %s", r.State, r.Reason)
}

func (a *app) showReport(r *eventlog.Report, values tpm.Values) error {
	if a.json {
		return a.object(struct {
			Proven     bool              `json:"proven"`
			Verdict    string            `json:"verdict"`
			Match      string            `json:"match"`
			Epoch      string            `json:"epoch"`
			PCR        int               `json:"pcr"`
			TPM        string            `json:"tpm"`
			State      string            `json:"state"`
			Reason     string            `json:"reason,omitempty"`
			Records    uint64            `json:"records"`
			Batches    uint64            `json:"batches"`
			MatchedSeq uint64            `json:"matchedSeq"`
			ProvenFrom uint64            `json:"provenFrom"`
			Unextended uint64            `json:"unextended"`
			Computed   map[string]string `json:"computed"`
			Value      map[string]string `json:"value"`
		}{r.Proven(), verdict(r), string(r.Match), r.Epoch.String(), r.PCR, string(r.Class), string(r.State), r.Reason,
			r.Records, r.Batches, r.MatchedSeq, r.ProvenFrom, r.Unextended, r.Computed.Strings(), values.Strings()})
	}
	rows := [][]string{
		{"log", fmt.Sprintf("epoch %.12s, %d records in %d batches, %s", r.Epoch, r.Records, r.Batches, r.State)},
		{"tpm", fmt.Sprintf("PCR %d, %s", r.PCR, r.Class)},
	}
	shown := mainBank(r.Computed)
	var equal, differ []string
	for _, b := range r.Computed.Banks() {
		v, given := values[b]
		same := bytes.Equal(v, r.Computed[b])
		switch {
		case b == shown:
			rows = append(rows, []string{"replay", fmt.Sprintf("%s %x", b, r.Computed[b])})
			if given {
				verdict := ""
				if same {
					verdict = "  equal"
				}
				rows = append(rows, []string{"value", fmt.Sprintf("%s %x%s", b, v, verdict)})
			}
		case given && same:
			equal = append(equal, b.String())
		case given:
			differ = append(differ, b.String())
		}
	}
	if len(equal) > 0 {
		rows = append(rows, []string{"", strings.Join(equal, ", ") + "  equal"})
	}
	if len(differ) > 0 {
		rows = append(rows, []string{"", strings.Join(differ, ", ") + "  different"})
	}
	return a.table(append(rows, []string{"verdict", verdict(r)}))
}

// mainBank is the bank that is shown in full.
func mainBank(v tpm.Values) tpm.Bank {
	banks := v.Banks()
	if slices.Contains(banks, tpm.SHA256) || len(banks) == 0 {
		return tpm.SHA256
	}
	return banks[0]
}
