package reference

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealift/sealift/internal/owned"
)

// The names of a store's files are NAME.dsse; what a crash left of an import
// begins with importing.
const (
	suffix    = ".dsse"
	importing = ".import-"
)

// Store keeps the newest imported envelope of each bundle name in a directory.
// One process uses it at a time; it is safe for concurrent use in it.
//
// Every envelope is verified again when the store is opened: a key that is no
// longer trusted takes its bundles' word away, but not their place in the line
// of versions.
type Store struct {
	dir   string
	trust []Key

	mu      sync.RWMutex
	entries map[string]*entry
}

type entry struct {
	version uint64
	digest  string
	// verified is nil, and problem set, where no trusted key signed it.
	verified *Verified
	problem  error
}

// Found is one verified, unexpired word on a manifest.
type Found struct {
	Image Image
	// SignedBy are "KEY/BUNDLE" each.
	SignedBy []string
	Bundle   string
	Version  uint64
	Expires  time.Time
	Digest   string
}

// OpenStore opens the store in dir, which it makes if need be.
func OpenStore(dir string, trust []Key) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("reference store: %w", err)
	}
	d, err := owned.OpenDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reference store: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("reference store: %w", err)
	}
	s := &Store{dir: dir, trust: slices.Clone(trust), entries: map[string]*entry{}}
	for _, file := range names {
		if strings.HasPrefix(file, importing) {
			if err := os.Remove(filepath.Join(dir, file)); err != nil {
				return nil, fmt.Errorf("reference store: half-written import: %w", err)
			}
			continue
		}
		name, ok := strings.CutSuffix(file, suffix)
		if !ok || !nameShape.MatchString(name) {
			continue
		}
		f, err := owned.OpenIn(d, file, filepath.Join(dir, file))
		if err != nil {
			return nil, fmt.Errorf("reference store: %w", err)
		}
		data, err := owned.Read(f, MaxEnvelope)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("reference store: %w", err)
		}
		s.entries[name] = s.entry(name, data)
	}
	return s, nil
}

// entry judges one stored envelope.
func (s *Store) entry(name string, data []byte) *entry {
	b, digest, _, err := Inspect(data)
	if err == nil && b.Name != name {
		err = &MalformedError{Reason: fmt.Sprintf("stored as %s, names itself %s", name, b.Name)}
	}
	if err != nil {
		// What was lost here is how far the versions had come, so nothing is
		// taken under this name until somebody looks.
		return &entry{problem: fmt.Errorf("%s: %w\nhint: the stored file is damaged; remove it and import the newest version again", filepath.Join(s.dir, name+suffix), err)}
	}
	e := &entry{version: b.Version, digest: digest}
	e.verified, e.problem = verifySignatures(data, s.trust)
	return e
}

// Import verifies an envelope and keeps it. It may be called again with the
// same envelope. Besides Verify's errors it returns a *RollbackError for a
// version that is not newer. When it returns nil the bundle is on the disk.
func (s *Store) Import(envelope []byte, now time.Time) (*Verified, error) {
	v, err := Verify(envelope, s.trust, now)
	if err != nil {
		return nil, err
	}
	name := v.Bundle.Name
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[name]; old != nil {
		switch {
		case old.version == 0:
			return nil, old.problem
		case v.Bundle.Version < old.version, v.Bundle.Version == old.version && old.digest != v.Digest:
			return nil, &RollbackError{Name: name, Have: old.version, Offered: v.Bundle.Version}
		}
	}
	if err := writeFile(filepath.Join(s.dir, name+suffix), envelope); err != nil {
		return nil, fmt.Errorf("reference store: %w", err)
	}
	s.entries[name] = &entry{version: v.Bundle.Version, digest: v.Digest, verified: v}
	return v, nil
}

// Find returns every verified bundle that lists the manifest and has not
// expired, in order of name.
func (s *Store) Find(manifest string, now time.Time) []Found {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Found
	for name, e := range s.entries {
		if e.verified == nil || !now.Before(e.verified.Bundle.Expires) {
			continue
		}
		for _, im := range e.verified.Bundle.Images {
			if im.Manifest == manifest {
				out = append(out, Found{Image: im, SignedBy: e.verified.SignedBy(), Bundle: name, Version: e.version,
					Expires: e.verified.Bundle.Expires, Digest: e.verified.Digest})
			}
		}
	}
	slices.SortFunc(out, func(a, b Found) int { return strings.Compare(a.Bundle, b.Bundle) })
	return out
}

// Problems are the stored bundles that have no word at present, and why.
func (s *Store) Problems(now time.Time) []error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for name := range s.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	var out []error
	for _, name := range names {
		switch e := s.entries[name]; {
		case e.problem != nil:
			out = append(out, fmt.Errorf("bundle %s: %w", name, e.problem))
		case !now.Before(e.verified.Bundle.Expires):
			out = append(out, &ExpiredError{Name: name, Version: e.version, Expires: e.verified.Bundle.Expires})
		}
	}
	return out
}

// writeFile puts data in place of path: either all of it is there after a
// crash, or what was there before.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), importing+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
