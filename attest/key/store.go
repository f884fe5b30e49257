package key

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealift/sealift/internal/durable"
)

// Names in the key's directory.
const (
	seedFile   = "ak.seed"
	publicFile = "ak.pub"
)

// seed is this host's secret part of the attestation key's derivation. It is no
// key: without the TPM it makes nothing.
type seed [64]byte

// store is the key's directory.
type store struct{ dir string }

func openStore(dir string) (store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return store{}, fmt.Errorf("attestation key: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return store{}, fmt.Errorf("attestation key: %w", err)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return store{}, fmt.Errorf("attestation key: %s can be written by others (mode %04o)\nhint: chmod 700 %s", dir, st.Mode().Perm(), dir)
	}
	return store{dir}, nil
}

// seed reads the seed, or chooses it and makes it durable: a key whose seed is
// lost is lost.
func (s store) seed() (seed, error) {
	var out seed
	path := filepath.Join(s.dir, seedFile)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := rand.Read(out[:]); err != nil {
			return seed{}, fmt.Errorf("attestation key: seed: %w", err)
		}
		if err := durable.Write(path, out[:], 0o600); err != nil {
			return seed{}, fmt.Errorf("attestation key: seed: %w", err)
		}
		return out, nil
	case err != nil:
		return seed{}, fmt.Errorf("attestation key: %w", err)
	case len(b) != len(out):
		return seed{}, fmt.Errorf("attestation key: %s is %d bytes long, not %d\nhint: remove %s and enrol again", path, len(b), len(out), s.dir)
	}
	copy(out[:], b)
	return out, nil
}

// public returns the saved public area, or nil.
func (s store) public() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, publicFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("attestation key: %w", err)
	}
	return b, nil
}

func (s store) savePublic(b []byte) error {
	if err := durable.Write(filepath.Join(s.dir, publicFile), b, 0o600); err != nil {
		return fmt.Errorf("attestation key: public area: %w", err)
	}
	return nil
}
