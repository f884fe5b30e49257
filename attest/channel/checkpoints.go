package channel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/internal/durable"
)

// Checkpoints keeps one checkpoint a host, by its AK's name, in a directory
// that only its owner may write. It may be used by several goroutines.
type Checkpoints struct {
	dir string

	mu sync.Mutex
	// kept is what was read or written; few hosts are peers.
	kept map[string]*verify.Checkpoint
}

// OpenCheckpoints makes the directory if there is none.
func OpenCheckpoints(dir string) (*Checkpoints, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	return &Checkpoints{dir: dir, kept: map[string]*verify.Checkpoint{}}, nil
}

func (c *Checkpoints) path(akName []byte) string {
	return filepath.Join(c.dir, hex.EncodeToString(akName)+".json")
}

// Load gives the checkpoint of a host, nil if there is none. A file that
// cannot be read is an error: to begin anew is for a person to decide, since
// it lets the host go back.
func (c *Checkpoints) Load(akName []byte) (*verify.Checkpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(akName)
}

func (c *Checkpoints) load(akName []byte) (*verify.Checkpoint, error) {
	if p, ok := c.kept[string(akName)]; ok {
		return p, nil
	}
	path := c.path(akName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	p, err := verify.DecodeCheckpoint(text)
	if err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w", path, err)
	}
	c.kept[string(akName)] = p
	return p, nil
}

// Store keeps a checkpoint unless one is kept that the host's TPM made later:
// two channels with one host may come to their verdicts in either order.
func (c *Checkpoints) Store(akName []byte, next *verify.Checkpoint) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err := c.load(akName)
	if err != nil {
		return err
	}
	if before != nil && (before.Reset > next.Reset || before.Reset == next.Reset && before.Clock > next.Clock) {
		return nil
	}
	text, err := next.Encode()
	if err != nil {
		return err
	}
	if err := durable.Write(c.path(akName), text, 0o600); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	c.kept[string(akName)] = next
	return nil
}

// Forget removes a host's checkpoint.
func (c *Checkpoints) Forget(akName []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.kept, string(akName))
	if err := durable.Remove(c.path(akName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}
