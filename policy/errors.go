package policy

import "github.com/sealift/sealift/internal/strictyaml"

// Error is one thing wrong with one policy file. Its text is
// "FILE:LINE: FIELD: MESSAGE", with the hint on a line of its own.
type Error = strictyaml.Error

// Errors is everything found wrong in a set of files, in order of file and line.
type Errors = strictyaml.Errors

// AsErrors returns the errors about policy files inside err, or nil.
func AsErrors(err error) Errors { return strictyaml.AsErrors(err) }
