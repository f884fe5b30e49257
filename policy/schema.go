package policy

import _ "embed"

// Schema is the JSON schema of a WorkloadPolicy. It knows the fields, types and
// words; who may loosen, and what is only asked under level restricted, is for
// Parse.
//
//go:embed schema.json
var Schema []byte
