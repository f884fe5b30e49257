// Package cli is the command sealift.
//
// What it prints keeps to four rules. Answers go to standard output, everything
// else to standard error. An error is "sealift: THING: REASON" and, where there
// is something to do about it, "hint: …" lines. With --json an answer is JSON
// (one object, or one a line where it is a stream) and nothing else. Progress
// bars appear only when standard error is a terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/version"
)

// Main runs the command and returns its exit status.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	a := &app{stdin: stdin, out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil {
		return Interrupted
	}
	return a.report(err)
}

// app is what all commands share.
type app struct {
	stdin    io.Reader
	out, err io.Writer

	socket string
	json   bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sealift",
		Short: "measure containers into the TPM before they start, and see what was measured",
		Long: `sealift is the command line of Sealift, a containerd runtime that measures a container's content
into the TPM before its first instruction and starts nothing that is not what its image says.

Begin with "sealift doctor": it tries what this machine can hold and says what to change.`,
		Example: `  sealift doctor                                  what can this machine hold?
  ctr run --rm --runtime io.containerd.sealift.v2 IMAGE web
  sealift status                                  what is running, and can the log be trusted?
  sealift log web                                 what was recorded about one container
  sealift log --verify                            does the log lead to the TPM's present value?
  sealift measure IMAGE                           measure an image ahead of its first start`,
		Args:              cobra.NoArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		PersistentPreRunE: emptyFlags,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(a.stdin)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	root.PersistentFlags().StringVar(&a.socket, "socket", node.Socket, "the agent's `socket`")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "answer in JSON")
	root.AddCommand(a.doctor(), a.status(), a.log(), a.measure(), a.reference(), a.policy(), a.attest(), a.verify(), a.peer(), a.enroll(), a.ca(), a.version())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Short = "write the completion script of a shell"
		case "help":
			c.Short = "explain a command, with examples"
		}
	}
	manual(root)
	return root
}

// dial connects to the agent.
func (a *app) dial(ctx context.Context) (*node.Client, error) {
	return node.Dial(ctx, a.socket, "cli", version.Version)
}

// withAgent runs f with a connection to the agent.
func (a *app) withAgent(ctx context.Context, f func(nodev1.NodeClient) error) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close())
}

// args checks the number of arguments and calls what is wrong a usage error.
func args(min, max int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		switch {
		case len(got) < min:
			return usage(c, fmt.Errorf("%s is missing", what))
		case max >= 0 && len(got) > max:
			return usage(c, fmt.Errorf("unexpected argument %q", got[max]))
		}
		return nil
	}
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the versions of this command and of the agent",
		Long:  `Print the version of this command and, if the agent answers, of the agent. That no agent answers is not an error here.`,
		Args:  args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			v := struct {
				CLI   string `json:"cli"`
				Agent string `json:"agent,omitempty"`
			}{CLI: version.Version}
			if cl, err := a.dial(c.Context()); err == nil {
				v.Agent = cl.Agent.GetBuild()
				if err := cl.Close(); err != nil {
					return err
				}
			}
			if a.json {
				return a.object(v)
			}
			fmt.Fprintln(a.out, "sealift", v.CLI)
			if v.Agent == "" {
				v.Agent = "does not answer at " + a.socket
			}
			_, err := fmt.Fprintln(a.out, "agent  ", v.Agent)
			return err
		},
	}
}

// commandPath is a command's path without its root, for messages.
func commandPath(c *cobra.Command) string {
	return strings.TrimSpace(strings.TrimPrefix(c.CommandPath(), c.Root().Name()))
}

// emptyFlags refuses flags that were given and say nothing. Mostly a variable of
// the caller's was not set; without the flag the command would do another thing:
// prove the whole node in place of one container, or believe any host.
// An empty argument is the same slip: "log" of no container is the whole log.
func emptyFlags(c *cobra.Command, args []string) error {
	var err error
	if slices.Contains(args, "") {
		err = usage(c, errors.New("an argument is empty: is a variable not set?"))
	}
	c.Flags().Visit(func(f *pflag.Flag) {
		empty := f.Value.String() == ""
		if list, ok := f.Value.(pflag.SliceValue); ok {
			empty = slices.Contains(list.GetSlice(), "")
		}
		if empty && err == nil {
			err = usage(c, fmt.Errorf("--%s is given, and empty: is a variable not set?", f.Name))
		}
	})
	return err
}
