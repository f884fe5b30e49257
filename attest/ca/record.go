package ca

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/internal/durable"
	"github.com/sealift/sealift/measure/eventlog"
)

// Record is one certificate as the CA remembers it: issued/SERIAL.
type Record struct {
	Serial      string            `json:"serial"`
	Host        string            `json:"host"`
	Class       certificate.Class `json:"class"`
	AK          []byte            `json:"ak"`
	EK          []byte            `json:"ek"`
	NotBefore   int64             `json:"not_before"`
	NotAfter    int64             `json:"not_after"`
	Certificate []byte            `json:"certificate"`
	// The TPM's counters when it proved itself: they never go back in one TPM.
	ResetCount uint32 `json:"reset_count"`
	Clock      uint64 `json:"clock"`
	// Revoked is when, in seconds since 1970; 0 is never.
	Revoked int64  `json:"revoked"`
	Reason  string `json:"reason"`
}

// Expired reports whether the certificate's time is over.
func (r *Record) Expired(now time.Time) bool { return now.Unix() > r.NotAfter }

// Records lists all certificates, the oldest first.
func (c *CA) Records() ([]*Record, error) {
	list, err := os.ReadDir(c.path(issuedDir))
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", c.dir, err)
	}
	out, err := c.records.refresh(list, c.record)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b *Record) int {
		if a.NotBefore != b.NotBefore {
			return int(a.NotBefore - b.NotBefore)
		}
		return strings.Compare(a.Serial, b.Serial)
	})
	return out, nil
}

// cache keeps records that were read. A record is only ever replaced by another
// file, so its inode and times tell whether it is still the one that was read.
type cache struct {
	mu   sync.Mutex
	seen map[string]cached
}

type cached struct {
	inode   uint64
	changed syscall.Timespec
	record  *Record
}

// refresh returns a copy of each record that the directory lists.
func (m *cache) refresh(list []fs.DirEntry, load func(string) (*Record, error)) ([]*Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := make(map[string]cached, len(list))
	out := make([]*Record, 0, len(list))
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") {
			continue // of a write that is under way, or was cut short
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil, fmt.Errorf("%s: no inode", e.Name())
		}
		x := m.seen[e.Name()]
		if x.record == nil || x.inode != st.Ino || x.changed != st.Ctim {
			r, err := load(e.Name())
			if err != nil {
				return nil, err
			}
			x = cached{st.Ino, st.Ctim, r}
		}
		now[e.Name()] = x
		copied := *x.record
		out = append(out, &copied)
	}
	m.seen = now
	return out, nil
}

func (c *CA) record(serial string) (*Record, error) {
	r := &Record{}
	if err := read(c.path(issuedDir, serial), r); err != nil {
		return nil, fmt.Errorf("CA %s: certificate %s: %w", c.dir, serial, err)
	}
	if r.Serial != serial {
		return nil, fmt.Errorf("CA %s: certificate %s: its record is of %s", c.dir, serial, r.Serial)
	}
	return r, nil
}

// Find returns the certificates with that serial number, or of that host.
func (c *CA) Find(which string) ([]*Record, error) {
	all, err := c.Records()
	if err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(all, func(r *Record) bool { return r.Serial != strings.ToLower(which) && r.Host != which })
	if len(out) == 0 {
		return nil, fmt.Errorf("CA %s: no certificate and no host %s: %w\nhint: sealift ca list", c.dir, which, fs.ErrNotExist)
	}
	return out, nil
}

// Revoke revokes a certificate, or all of a host's, and signs a new list. What is
// revoked already stays as it is; that nothing is left to revoke is no error.
func (c *CA) Revoke(which, reason string) ([]*Record, error) {
	var done []*Record
	err := c.locked(func() error {
		list, err := c.Find(which)
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.Revoked != 0 {
				continue
			}
			r.Revoked, r.Reason = c.now().Unix(), reason
			if err := write(c.path(issuedDir, r.Serial), r, durable.Write); err != nil {
				return fmt.Errorf("CA %s: certificate %s: %w", c.dir, r.Serial, err)
			}
			done = append(done, r)
		}
		records, err := c.Records()
		if err == nil {
			_, err = c.newList(records)
		}
		return err
	})
	return done, err
}

// serialText is how a certificate's serial number is written here.
func serialText(n *big.Int) string { return hex.EncodeToString(n.Bytes()) }

// read decodes one of the CA's small files.
func read(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return eventlog.Unmarshal([]byte(strings.TrimSuffix(string(b), "\n")), v)
}

// write encodes one, with durable's Write or Create.
func write(path string, v any, how func(string, []byte, fs.FileMode) error) error {
	b, err := eventlog.Marshal(v)
	if err != nil {
		return err
	}
	return how(path, append(b, '\n'), 0o600)
}

// pin is pins/FINGERPRINT: an endorsement key that a person has entered.
type pin struct {
	// Host is the only name it may enrol as; empty is any.
	Host string `json:"host"`
}

// PinEK admits the endorsement key with that fingerprint, SHA-256 of its
// SubjectPublicKeyInfo, as the host, or as any with an empty name.
func (c *CA) PinEK(fingerprint [sha256.Size]byte, host string) error {
	if host != "" {
		if err := certificate.CheckHost(host); err != nil {
			return err
		}
	}
	if err := write(c.path(pinsDir, hex.EncodeToString(fingerprint[:])), pin{host}, durable.Write); err != nil {
		return fmt.Errorf("CA %s: pin: %w", c.dir, err)
	}
	return nil
}

// pinned returns the pin of an endorsement key, or nil.
func (c *CA) pinned(fingerprint [sha256.Size]byte) (*pin, error) {
	p := &pin{}
	err := read(c.path(pinsDir, hex.EncodeToString(fingerprint[:])), p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("CA %s: pin: %w", c.dir, err)
	}
	return p, nil
}
