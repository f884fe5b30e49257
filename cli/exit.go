package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/containerd/ttrpc"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealift/sealift/api/node"
)

// Exit statuses. They are part of the interface: scripts rely on them.
const (
	// OK: done, and everything is as it should be.
	OK = 0
	// No: the answer is no. Something was refused, differs, does not verify, or
	// is missing where it is required.
	No = 1
	// Usage: the command line is wrong.
	Usage = 2
	// Unavailable: no agent answers. For verify: what was given cannot be judged.
	Unavailable = 3
	// Failed: it could not be found out or done: a file cannot be read, the TPM
	// does not answer.
	Failed = 4
	// Interrupted by a signal.
	Interrupted = 130
)

const exitHelp = `0    done, and everything is as it should be
1    the answer is no: refused, different, not verified, or something required is missing
2    the command line is wrong
3    no agent answers
4    it could not be found out or done: a file cannot be read, the TPM does not answer
130  interrupted`

// noError is an answer of no whose text goes to standard error; an empty one
// has been told on standard output already.
type noError struct{ err error }

func (e *noError) Error() string { return e.err.Error() }
func (e *noError) Unwrap() error { return e.err }

// no makes an answer of no.
func no(format string, args ...any) error { return &noError{fmt.Errorf(format, args...)} }

var errTold = &noError{errors.New("told already")}

// usageError is a wrong command line.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v\nhint: sealift help%s", e.err, e.command)
}

func (e *usageError) Unwrap() error { return e.err }

func usage(c *cobra.Command, err error) error {
	path := commandPath(c)
	if path != "" {
		path = " " + path
	}
	return &usageError{command: path, err: err}
}

// report prints err and returns the exit status it stands for.
func (a *app) report(err error) int {
	if err == nil {
		return OK
	}
	if !errors.Is(err, errTold) {
		// Errors that shims show too name Sealift by themselves.
		fmt.Fprintln(a.err, "sealift: "+strings.TrimPrefix(text(err), "sealift "))
	}
	return code(err)
}

func code(err error) int {
	var wrong *usageError
	var answer *noError
	var away *node.UnavailableError
	var bad *badTrustError
	var unusable *unusableError
	switch {
	case errors.As(err, &wrong), errors.As(err, &bad), unknownCommand(err):
		return Usage
	case errors.As(err, &unusable):
		return Unavailable
	case errors.As(err, &answer):
		return No
	case errors.As(err, &away), errors.Is(err, ttrpc.ErrClosed):
		return Unavailable
	}
	if s, ok := remote(err); ok {
		switch s.Code() {
		case codes.Unavailable, codes.Internal, codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Canceled, codes.ResourceExhausted:
			return Failed
		}
		return No
	}
	return Failed
}

// remote returns the status the agent answered with.
func remote(err error) (*status.Status, bool) {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus(), true
	}
	return nil, false
}

// text is err for a person: an answer of the agent without its wrapping.
func text(err error) string {
	var away *node.UnavailableError
	switch s, ok := remote(err); {
	case errors.As(err, &away) && errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("agent at %s: %v\nhint: only root may ask it", away.Socket, away.Err)
	case errors.Is(err, ttrpc.ErrClosed), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return "the agent closed the connection\nhint: it speaks only to root's own sealift, as it is at its installed path (node.cli in its configuration); journalctl -u sealiftd says whom it turned away"
	case ok && s.Code() == codes.Unimplemented:
		return "the agent does not know this request: " + s.Message() + "\nhint: sealift version shows both versions; the agent may be older"
	case ok:
		return s.Message()
	case unknownCommand(err):
		return err.Error() + "\nhint: sealift help"
	}
	return err.Error()
}

// unknownCommand recognises cobra's error for a command that does not exist,
// which has no type.
func unknownCommand(err error) bool { return strings.HasPrefix(err.Error(), "unknown command ") }
