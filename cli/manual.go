package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manual gives a command and those below it a help text in the order of a
// manual page.
func manual(c *cobra.Command) {
	c.SetHelpFunc(func(c *cobra.Command, _ []string) {
		if _, err := io.WriteString(c.OutOrStdout(), page(c)); err != nil {
			fmt.Fprintln(c.ErrOrStderr(), "sealift: help:", err)
		}
	})
	c.SetUsageFunc(func(*cobra.Command) error { return nil }) // a wrong command line gets a hint instead
}

// page is the help of one command.
func page(c *cobra.Command) string {
	var b bytes.Buffer
	section := func(title, text string) {
		if text = strings.Trim(text, "\n"); text != "" {
			fmt.Fprintf(&b, "%s\n%s\n\n", title, indent(text))
		}
	}
	section("NAME", c.CommandPath()+" - "+c.Short)
	use := c.UseLine()
	if c.HasAvailableSubCommands() {
		use = c.CommandPath() + " COMMAND"
	}
	section("SYNOPSIS", strings.ReplaceAll(use, " [flags]", "")+" [OPTION...]")
	section("DESCRIPTION", c.Long)
	section("COMMANDS", commands(c))
	section("OPTIONS", options(c.NonInheritedFlags()))
	section("COMMON OPTIONS", options(c.InheritedFlags()))
	section("EXAMPLES", dedent(c.Example))
	exit := exitHelp
	if own, ok := c.Annotations["exit"]; ok {
		exit = own
	}
	section("EXIT STATUS", exit)
	if see, ok := c.Annotations["see"]; ok {
		section("SEE ALSO", see)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func commands(c *cobra.Command) string {
	var b strings.Builder
	for _, s := range c.Commands() {
		if s.IsAvailableCommand() || s.Name() == "help" {
			fmt.Fprintf(&b, "%-12s%s\n", s.Name(), s.Short)
		}
	}
	return b.String()
}

func options(fs *pflag.FlagSet) string {
	var b strings.Builder
	fs.VisitAll(func(f *pflag.Flag) {
		value, text := pflag.UnquoteUsage(f)
		if f.Name == "help" {
			text = "print this text"
		}
		name := "    --" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", --" + f.Name
		}
		if value != "" {
			name += " " + strings.ToUpper(value)
		}
		if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0" {
			text += " (" + strings.Trim(d, "[]") + ")"
		}
		if len(name) > 27 {
			name += "\n" + strings.Repeat(" ", 27)
		}
		fmt.Fprintf(&b, "%-27s %s\n", name, text)
	})
	return b.String()
}

func indent(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = "    " + l
		}
	}
	return strings.Join(lines, "\n")
}

func dedent(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}
