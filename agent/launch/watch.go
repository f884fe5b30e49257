package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sealift/sealift/measure/chain"
)

// Watched is a container whose first start this host has seen. Its writable
// layer is its own work, and the image it started from stays its image when the
// name is given to another.
type Watched struct {
	Namespace string    `json:"namespace"`
	ID        string    `json:"id"`
	Created   time.Time `json:"created"`
	Manifest  string    `json:"manifest"`
	// Upper is the writable layer's directory (or the root's, for a bind) and
	// its identity.
	Upper string `json:"upper"`
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Seq   uint64 `json:"seq"`
	// Clean says that the writable layer was empty or known at the first start.
	// One that was not, and was let through in audit mode, does not become the
	// container's own work by that.
	Clean bool `json:"clean"`
}

// is says whether the directory is the writable layer that w began clean with;
// nil is never.
func (w *Watched) is(dir string, r chain.Root) bool {
	return w != nil && w.Clean && w.Upper == dir && w.Dev == r.Dev && w.Ino == r.Ino
}

// Watch keeps the watched containers, a file for each.
type Watch struct{ dir string }

// OpenWatch makes the directory.
func OpenWatch(dir string) (*Watch, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("watched containers: %w", err)
	}
	return &Watch{dir}, nil
}

// file is safe because namespaces and ids are validated before they come here.
func (w *Watch) file(ns, id string) string { return filepath.Join(w.dir, ns, id+".json") }

// Get returns nil for a container that is not watched. A file that cannot be
// read is like none, and its container like a new one.
func (w *Watch) Get(ns, id string) *Watched {
	b, err := os.ReadFile(w.file(ns, id))
	if err != nil {
		return nil
	}
	var c Watched
	if json.Unmarshal(b, &c) != nil || c.Namespace != ns || c.ID != id {
		return nil
	}
	return &c
}

// Put remembers c.
func (w *Watch) Put(c *Watched) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("watched container %s/%s: %w", c.Namespace, c.ID, err)
	}
	file := w.file(c.Namespace, c.ID)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("watched container %s/%s: %w", c.Namespace, c.ID, err)
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("watched container %s/%s: %w", c.Namespace, c.ID, err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("watched container %s/%s: %w", c.Namespace, c.ID, err)
	}
	return nil
}

// Remove forgets a container; one that is not watched is no error.
func (w *Watch) Remove(ns, id string) error {
	if err := os.Remove(w.file(ns, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("watched container %s/%s: %w", ns, id, err)
	}
	return nil
}
