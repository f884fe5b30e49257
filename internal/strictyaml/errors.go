package strictyaml

import (
	"errors"
	"fmt"
	"strings"
)

// Error is one thing wrong with one file. Its text is
// "FILE:LINE: FIELD: MESSAGE", with the hint on a line of its own.
type Error struct {
	File  string
	Line  int
	Field string
	// Message says what is wrong, Hint what to do about it.
	Message string
	Hint    string
}

func (e *Error) Error() string {
	s := e.Position() + ": "
	if e.Field != "" {
		s += e.Field + ": "
	}
	s += e.Message
	if e.Hint != "" {
		s += "\nhint: " + e.Hint
	}
	return s
}

// Position is FILE:LINE, or FILE when no line is to blame.
func (e *Error) Position() string {
	if e.Line == 0 {
		return e.File
	}
	return fmt.Sprintf("%s:%d", e.File, e.Line)
}

// maxErrors bounds how many errors one Errors lists.
const maxErrors = 50

// Errors is everything found wrong in a set of files, in order of file and line.
type Errors []*Error

func (es Errors) Error() string {
	parts := make([]string, 0, len(es))
	for i, e := range es {
		if i == maxErrors {
			parts = append(parts, fmt.Sprintf("… and %d more", len(es)-maxErrors))
			break
		}
		parts = append(parts, e.Error())
	}
	return strings.Join(parts, "\n")
}

// Unwrap gives every error to errors.Is and errors.As.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// AsErrors returns the errors about files inside err, or nil.
func AsErrors(err error) Errors {
	var es Errors
	if errors.As(err, &es) {
		return es
	}
	var e *Error
	if errors.As(err, &e) {
		return Errors{e}
	}
	return nil
}
