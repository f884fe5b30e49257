package peer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

type fileKey struct {
	dev, ino     uint64
	sec, nanosec int64
}

// remember hashes an executable once for each file that appears at a path of
// ours, so that its processes are known after it has been replaced.
func (k *Checker) remember(f *os.File, role Role) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := fileKey{uint64(st.Dev), st.Ino, st.Ctim.Sec, st.Ctim.Nsec}
	if k.hashed[key] {
		return nil
	}
	d, err := digest(f)
	if err != nil {
		return err
	}
	k.hashed[key] = true
	if _, ok := k.known[d]; ok {
		return nil
	}
	k.known[d] = role
	return k.save()
}

func digest(r io.Reader) (d [sha256.Size]byte, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return d, err
	}
	copy(d[:], h.Sum(nil))
	return d, nil
}

func (k *Checker) load() error {
	b, err := os.ReadFile(k.store)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("known executables: %w", err)
	}
	for line := range bytes.Lines(b) {
		var role, sum string
		if _, err := fmt.Sscanf(string(line), "%s %s\n", &role, &sum); err != nil || len(sum) != 2*sha256.Size {
			return fmt.Errorf("known executables %s: line %q: not ROLE SHA256\nhint: remove the file and restart sealiftd", k.store, line)
		}
		d, err := hex.DecodeString(sum)
		if err != nil {
			return fmt.Errorf("known executables %s: line %q: %w", k.store, line, err)
		}
		k.known[[sha256.Size]byte(d)] = Role(role)
	}
	return nil
}

func (k *Checker) save() error {
	var b bytes.Buffer
	for d, role := range k.known {
		fmt.Fprintf(&b, "%s %x\n", role, d)
	}
	tmp := k.store + ".new"
	if err := os.WriteFile(tmp, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("known executables: %w", err)
	}
	if err := os.Rename(tmp, k.store); err != nil {
		return fmt.Errorf("known executables: %w", err)
	}
	return nil
}
