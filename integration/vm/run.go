package vm

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/sealift/sealift/integration/vm/wire"
)

// Run runs a command inside to its end and returns what it wrote to standard
// output. Its error is an *ExitError when the command ended badly.
func (v *VM) Run(ctx context.Context, args ...string) (string, error) {
	return v.RunInput(ctx, nil, args...)
}

// Shell runs a script of /bin/sh inside, which ends at its first error.
func (v *VM) Shell(ctx context.Context, script string) (string, error) {
	return v.Run(ctx, "/bin/sh", "-euc", script)
}

// RunInput is Run with standard input.
func (v *VM) RunInput(ctx context.Context, stdin []byte, args ...string) (string, error) {
	if v.port == nil {
		return "", fmt.Errorf("%s: %w: it is off", strings.Join(args, " "), errGone)
	}
	var stdout, stderr bytes.Buffer
	status, err := v.port.run(ctx, wire.Message{Args: args, Stdin: stdin}, &stdout, &stderr)
	if err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	if status != 0 {
		return stdout.String(), &ExitError{Args: args, Status: status, Stdout: stdout.String(), Stderr: stderr.String()}
	}
	return stdout.String(), nil
}

// WriteFile writes a file inside, with its parent directories.
func (v *VM) WriteFile(ctx context.Context, path string, content []byte, mode fs.FileMode) error {
	script := `mkdir -p "$(dirname "$1")" && cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"`
	_, err := v.RunInput(ctx, content, "/bin/sh", "-euc", script, "sh", path, fmt.Sprintf("%o", mode.Perm()))
	return err
}

// ExitError is a command inside that did not end with status 0. Status is
// 128+n for one that signal n ended.
type ExitError struct {
	Args           []string
	Status         int
	Stdout, Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d\n%s%s", strings.Join(e.Args, " "), e.Status, e.Stdout, e.Stderr)
}

// Output is all that the command wrote.
func (e *ExitError) Output() string { return e.Stdout + e.Stderr }
