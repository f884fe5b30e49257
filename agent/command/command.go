// Package command is the command line of sealiftd.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sealift/sealift/agent"
	"github.com/sealift/sealift/agent/config"
)

// Exit codes, documented in the help text.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// errUsage marks errors in how the command was called.
var errUsage = errors.New("usage")

// Main runs sealiftd with args and returns its exit code.
func Main(args []string, version string, stdout, stderr io.Writer) int {
	root := newRoot(version)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "sealiftd: %v\nhint: sealiftd --help\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "sealiftd: %v\n", err)
	return exitFailed
}

func newRoot(version string) *cobra.Command {
	var file string
	var debug bool
	root := &cobra.Command{
		Use:   "sealiftd",
		Short: "Measure containers into the TPM before they start",
		Long: `sealiftd is Sealift's agent. There is one on each node. It alone talks to the
TPM and writes the event log; shims ask it whether a container may start.

While it is away nothing starts, and what runs goes on.

Signals: SIGHUP reads policies and trusted keys again (on an error the old ones
stay in force); SIGTERM and SIGINT stop it.

Exit codes: 0 stopped as asked, 1 it could not go on, 2 wrong usage.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), file, version, debug, cmd.ErrOrStderr())
		},
	}
	root.Flags().StringVar(&file, "config", config.File, "configuration `FILE`")
	root.Flags().BoolVar(&debug, "debug", false, "log more")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })

	conf := &cobra.Command{
		Use: "config", Short: "Show and check the configuration", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	conf.AddCommand(&cobra.Command{
		Use: "default", Short: "Print every key with its meaning and its default", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Default)
			return err
		},
	})
	conf.AddCommand(&cobra.Command{
		Use: "check [FILE]", Short: "Check a configuration file", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := config.File
			if len(args) == 1 {
				path = args[0]
			}
			c, err := config.Load(path)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", c.Source)
			return err
		},
	})
	root.AddCommand(conf)
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: %s takes no argument %q", errUsage, cmd.CommandPath(), args[0])
	}
	return nil
}

func run(ctx context.Context, file, version string, debug bool, logs io.Writer) error {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: level})))
	if os.Geteuid() != 0 {
		return errors.New("not root: the TPM and the node socket are root's")
	}
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return agent.Run(ctx, cfg, version, notifyReady)
}

// notifyReady tells systemd (sd_notify(3)) that containers can start.
func notifyReady() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		slog.Warn("systemd was not told", "err", err)
		return
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		slog.Warn("systemd was not told", "err", err)
	}
}
