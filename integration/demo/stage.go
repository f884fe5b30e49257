package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/node"
)

// stage prints the play: sentences, commands as one would type them, what they
// answer, and whether that was expected.
type stage struct {
	w      io.Writer
	n      *node.Node
	step   int
	failed []string
}

// say begins a step with a sentence.
func (s *stage) say(format string, args ...any) {
	s.step++
	fmt.Fprintf(s.w, "\n%d. %s\n", s.step, fmt.Sprintf(format, args...))
}

// shell shows and runs one line, and returns its output and whether it ended
// well. Long output is shown in part.
func (s *stage) shell(ctx context.Context, line string) (string, bool) {
	fmt.Fprintf(s.w, "   $ %s\n", line)
	out, err := s.n.Run(ctx, "/bin/sh", "-c", "exec 2>&1; "+line)
	out = deprecation.ReplaceAllString(out, "")
	s.show(out)
	var exit *host.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.expect("the command ran: "+err.Error(), false)
	}
	return out, err == nil
}

// deprecation is what the newest ctr says on a machine with old cgroups.
var deprecation = regexp.MustCompile(`(?m)^.*msg="DEPRECATION: .*\n`)

// maxShown bounds how many lines of one answer are shown.
const maxShown = 24

func (s *stage) show(out string) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	for i, l := range lines {
		if i == maxShown {
			fmt.Fprintf(s.w, "     … %d more lines\n", len(lines)-i)
			break
		}
		if l != "" {
			fmt.Fprintf(s.w, "     %s\n", l)
		}
	}
}

// expect says what should be so, and remembers when it is not.
func (s *stage) expect(what string, ok bool) {
	mark := "ok"
	if !ok {
		mark = "NOT SO"
		s.failed = append(s.failed, fmt.Sprintf("step %d: %s", s.step, what))
	}
	fmt.Fprintf(s.w, "   → %s: %s\n", what, mark)
}

// result is an error when anything was not as expected.
func (s *stage) result() error {
	if len(s.failed) == 0 {
		return nil
	}
	return fmt.Errorf("not as expected:\n  %s", strings.Join(s.failed, "\n  "))
}
