package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/eventlog"
)

func (a *app) log() *cobra.Command {
	var o logOptions
	c := &cobra.Command{
		Use:   "log [[NAMESPACE/]CONTAINER]",
		Short: "show what was recorded, and verify it against the TPM",
		Long: `Show the event log: everything Sealift extended into its PCR since boot, oldest first. Arguments, environment and specs
are in it as salted hashes only.

With --verify the whole log is replayed, record by record, and compared with the PCR's value: nothing may be missing,
changed, added or in another order. The value is read from the TPM by this command itself and not asked from the
agent, unless --value gives one, as from a quote or from "tpm2_pcrread sha256:13". A file that was carried away
(--file) needs neither root nor an agent.

With --json the stored lines are printed byte for byte; they are JSON, and what is printed without a filter is what
--file reads.`,
		Example: `  sealift log                                everything since boot
  sealift log web                            the records of containers of this name
  sealift log default/web                    the records of one container
  sealift log -n k8s.io --follow             a namespace's, as they come
  sealift log --verify                       does the log lead to the TPM's value?
  sealift log --json > node.log
  sealift log --verify --file node.log --value sha256:9c1b…`,
		Annotations: map[string]string{"see": "docs/event-log.md: the format, and how to replay it yourself"},
		Args:        args(0, 1, ""),
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.containerIDs(c.Context()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				if err := o.only(c, args[0]); err != nil {
					return err
				}
			}
			return a.runLog(c, o)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.namespace, "namespace", "n", "", "only this containerd `namespace`")
	f.BoolVarP(&o.follow, "follow", "f", false, "go on as records come")
	f.Uint64Var(&o.from, "from", 0, "begin at this record `number`")
	f.BoolVar(&o.verify, "verify", false, "replay the log against the TPM")
	f.StringArrayVar(&o.values, "value", nil, "verify against this PCR value, as `bank:hex`; may be repeated")
	f.StringVar(&o.device, "tpm", "", "verify against the TPM at this `device` (the agent's)")
	a.logSource(c, &o.source)
	c.AddCommand(a.logEpochs(), a.logExport(), a.logAcknowledge())
	return c
}

type logOptions struct {
	source
	container, namespace string
	follow, verify       bool
	from                 uint64
	values               []string
	device               string
}

// only limits the log to a container, named with its namespace or without.
func (o *logOptions) only(c *cobra.Command, name string) error {
	namespace, container, ok := strings.Cut(name, "/")
	if !ok {
		o.container = name
		return nil
	}
	if o.namespace != "" && o.namespace != namespace {
		return usage(c, fmt.Errorf("%q is not in namespace %q", name, o.namespace))
	}
	o.namespace, o.container = namespace, container
	return nil
}

// source says where stored lines come from: the agent, a directory, a file.
type source struct{ dir, file, epoch string }

func (a *app) logSource(c *cobra.Command, s *source) {
	f := c.Flags()
	f.StringVar(&s.epoch, "epoch", "", "the epoch that begins with these `digits` instead of the present one")
	f.StringVar(&s.dir, "dir", "", "read the log `directory` instead of asking the agent")
	f.StringVar(&s.file, "file", "", "read this `file` of stored lines, - for standard input")
}

// local reports whether no agent is asked for the lines.
func (s source) local() bool { return s.dir != "" || s.file != "" }

func (a *app) runLog(c *cobra.Command, o logOptions) error {
	filtered := o.container != "" || o.namespace != "" || o.from != 0
	switch {
	case o.dir != "" && o.file != "":
		return usage(c, errors.New("--dir and --file name two sources"))
	case o.follow && (o.local() || o.epoch != ""):
		return usage(c, errors.New("--follow needs the agent and its present epoch"))
	case o.verify && (filtered || o.follow):
		return usage(c, errors.New("--verify is about the whole log: no container, namespace, --from or --follow"))
	case !o.verify && (o.values != nil || o.device != ""):
		return usage(c, errors.New("--value and --tpm are for --verify"))
	case o.verify:
		values, err := parseValues(o.values)
		if err != nil {
			return usage(c, err)
		}
		return a.verifyLog(c.Context(), o, values)
	}
	lines, err := a.lines(c.Context(), o)
	if err != nil {
		return err
	}
	for line, err := range lines {
		if err != nil {
			return err
		}
		if err := a.showLine(line, o); err != nil {
			return err
		}
	}
	return nil
}

// lines gives stored lines, each without its newline. The iterator can be used
// again, but for standard input.
func (a *app) lines(ctx context.Context, o logOptions) (iter.Seq2[[]byte, error], error) {
	switch {
	case o.file == "-":
		return eventlog.LinesOf(a.stdin), nil
	case o.file != "":
		return fileLines(o.file), nil
	case o.dir != "":
		return eventlog.Lines(o.dir, o.epoch)
	}
	return func(yield func([]byte, error) bool) {
		err := a.withAgent(ctx, func(n nodev1.NodeClient) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := n.ReadLog(ctx, &nodev1.ReadLogRequest{Follow: o.follow, Namespace: o.namespace, Id: o.container, From: o.from, Epoch: o.epoch})
			if err != nil {
				return err
			}
			for {
				l, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if !yield(l.GetLine(), nil) {
					return errStopped
				}
			}
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}, nil
}

var errStopped = errors.New("no more lines are wanted")

func fileLines(file string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		f, err := os.Open(file)
		if err != nil {
			yield(nil, fmt.Errorf("log: %w", err))
			return
		}
		defer f.Close()
		for line, err := range eventlog.LinesOf(f) {
			if !yield(line, err) {
				return
			}
		}
	}
}

// showLine prints one stored line if it is wanted.
func (a *app) showLine(line []byte, o logOptions) error {
	l, err := eventlog.DecodeLine(line)
	if err != nil {
		return err
	}
	var rec *eventlog.Record
	if l.Item != nil {
		if rec, err = l.Item.Open(); err != nil {
			return fmt.Errorf("record %d: %w", l.Item.Seq, err)
		}
	}
	filtered := o.container != "" || o.namespace != ""
	seq, err := eventlog.LineSeq(line)
	if err != nil {
		return err
	}
	if seq < o.from || filtered && (rec == nil || o.container != "" && rec.Container != o.container || o.namespace != "" && rec.Namespace != o.namespace) {
		return nil
	}
	if a.json {
		_, err = fmt.Fprintf(a.out, "%s\n", line)
		return err
	}
	switch {
	case rec != nil:
		_, err = fmt.Fprintln(a.out, recordText(l.Item.Seq, rec))
	case l.Closed != nil:
		_, err = fmt.Fprintf(a.out, "%6d  closed: another tenant's\n", l.Closed.Seq)
	}
	return err
}

// containerIDs are completions; where the agent does not answer there are none.
func (a *app) containerIDs(ctx context.Context) []string {
	var ids []string
	err := a.withAgent(ctx, func(n nodev1.NodeClient) error {
		s, err := n.Status(ctx, &nodev1.StatusRequest{})
		for _, c := range s.GetContainers() {
			ids = append(ids, c.GetNamespace()+"/"+c.GetId())
		}
		return err
	})
	if err != nil {
		return nil
	}
	return ids
}

func (a *app) logEpochs() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "epochs",
		Short: "list the epochs that are kept",
		Long: `List the epochs of the log, oldest first: one for each boot, and one more each time the history could not be continued.
The state is the one an epoch began in.`,
		Example: `  sealift log epochs
  sealift log --epoch 4f1c`,
		Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				err := a.withAgent(c.Context(), func(n nodev1.NodeClient) error {
					s, err := n.Status(c.Context(), &nodev1.StatusRequest{})
					dir = s.GetLog().GetDirectory()
					return err
				})
				if err != nil {
					return err
				}
			}
			return a.showEpochs(dir)
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "read the log `directory` instead of asking the agent where it is")
	return c
}

func (a *app) showEpochs(dir string) error {
	list, err := eventlog.Epochs(dir)
	if err != nil {
		return err
	}
	rows := [][]string{{"EPOCH", "NUMBER", "BOOT", "RESETS", "BEGAN"}}
	for _, e := range list {
		if a.json {
			err := a.object(struct {
				Epoch      string `json:"epoch"`
				Number     uint64 `json:"number"`
				BootID     string `json:"bootId"`
				ResetCount uint32 `json:"resetCount"`
				State      string `json:"state"`
				Cause      string `json:"cause,omitempty"`
				Directory  string `json:"directory"`
			}{e.ID.String(), e.Number, e.BootID, e.ResetCount, string(e.State), string(e.Cause), e.Dir})
			if err != nil {
				return err
			}
			continue
		}
		state := string(e.State)
		if e.Cause != "" {
			state += ", " + string(e.Cause)
		}
		rows = append(rows, []string{fmt.Sprintf("%.12s", e.ID), strconv.FormatUint(e.Number, 10), e.BootID, strconv.FormatUint(uint64(e.ResetCount), 10), state})
	}
	if a.json {
		return nil
	}
	return a.table(rows)
}

func (a *app) logExport() *cobra.Command {
	var o logOptions
	c := &cobra.Command{
		Use:   "export",
		Short: "write the log in TCG2 form, which other tools replay",
		Long: `Write an epoch as a TCG2 (crypto-agile) event log, each batch one EV_EVENT_TAG event: tpm2_eventlog and other programs
that know nothing of Sealift replay it to the PCR's value.`,
		Example: `  sealift log export > sealift.tcg2 && tpm2_eventlog sealift.tcg2`,
		Args:    args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			lines, err := a.lines(c.Context(), o)
			if err != nil {
				return err
			}
			return eventlog.ExportTCG2(a.out, lines)
		},
	}
	a.logSource(c, &o.source)
	return c
}

func (a *app) logAcknowledge() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "acknowledge STATE --reason TEXT",
		Short: "have your decision about a state of the log recorded",
		Long: `Have it recorded that you know of the state the log is in (foreign, history-lost or tpm-reset; "sealift status" shows it)
and let containers start again. The state itself stays, for verifiers to see; so do your words.`,
		Example: `  sealift log acknowledge foreign --reason "ticket 4711: tpm2-tools run by hand"`,
		Args:    args(1, 1, "the state to acknowledge"),
		ValidArgs: []string{
			string(eventlog.Foreign), string(eventlog.HistoryLost), string(eventlog.TPMReset),
		},
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage(c, errors.New("--reason is missing: it stays in the log"))
			}
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error {
				r, err := n.Acknowledge(c.Context(), &nodev1.AcknowledgeRequest{State: args[0], Reason: reason})
				if err != nil {
					return err
				}
				return a.line(struct {
					Seq uint64 `json:"seq"`
				}{r.GetSeq()}, "recorded as %d", r.GetSeq())
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, in your words: `text`")
	return c
}
