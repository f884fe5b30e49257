package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealift/sealift/internal/owned"
)

// Dir is where a host's policies are.
const Dir = "/etc/sealift/policy.d"

// maxFiles bounds how many policies a directory may hold.
const maxFiles = 1024

// LoadDir reads every *.yaml of dir. A directory that does not exist holds no
// policy. Everything that looks like a policy and cannot be taken as one is an
// error, for a file that is silently left out is a rule silently not held; the
// error is an Errors that lists all of them.
//
// Files whose names begin with a dot or end in anything but .yaml, .yml, .json
// or a case variant of these are not policies and are passed over.
func LoadDir(dir string) (*Set, error) {
	d, err := owned.OpenDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &Set{}, nil
	}
	if err != nil {
		return nil, located(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("policy directory: %w", err)
	}
	slices.Sort(names)
	var policies []*Policy
	var errs Errors
	for _, name := range names {
		file := filepath.Join(dir, name)
		switch ext := strings.ToLower(filepath.Ext(name)); {
		case strings.HasPrefix(name, "."):
			continue
		case filepath.Ext(name) == ".yaml":
		case ext == ".yaml" || ext == ".yml" || ext == ".json":
			errs = append(errs, &Error{File: file, Message: "is not read under this name", Hint: "name it *.yaml, or move it away"})
			continue
		default:
			continue
		}
		if len(policies) == maxFiles {
			errs = append(errs, &Error{File: dir, Message: fmt.Sprintf("holds more than %d policies", maxFiles)})
			break
		}
		f, err := owned.OpenIn(d, name, file)
		if err == nil {
			var p *Policy
			if p, err = read(f, file); err == nil {
				policies = append(policies, p)
				continue
			}
		}
		es := AsErrors(located(err))
		if es == nil {
			return nil, err
		}
		errs = append(errs, es...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return NewSet(policies...)
}

// LoadFile reads one policy under the same rules as LoadDir.
func LoadFile(file string) (*Policy, error) {
	f, err := owned.Open(file)
	if err != nil {
		return nil, located(err)
	}
	p, err := read(f, file)
	return p, located(err)
}

// read reads the policy in f and closes it.
func read(f *os.File, file string) (*Policy, error) {
	defer f.Close()
	data, err := owned.Read(f, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return Parse(file, data)
}

// located gives an error about a file the form that all policy errors have.
func located(err error) error {
	var e *owned.Error
	if errors.As(err, &e) {
		return Errors{{File: e.Path, Message: e.Message, Hint: e.Hint}}
	}
	return err
}
