package agent

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/sealift/sealift/agent/config"
	"github.com/sealift/sealift/measure/reference"
)

// openSigned opens the store of signed references and says which of them have
// no word any more.
func openSigned(cfg *config.Config) (*signed, error) {
	trust, err := reference.LoadTrust(cfg.Policy.Trust)
	if err != nil {
		return nil, fmt.Errorf("trusted keys: %w", err)
	}
	s, err := reference.OpenStore(filepath.Join(StateDir, "references"), trust)
	if err != nil {
		return nil, err
	}
	for _, p := range s.Problems(time.Now()) {
		slog.Warn("signed reference", "err", p)
	}
	return &signed{Store: s, keys: trust}, nil
}

// signed are the references that are believed, and by whose keys.
type signed struct {
	*reference.Store
	keys []reference.Key
}

// keyRecord names a trusted key in the log.
type keyRecord struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

func (s *signed) records() []keyRecord {
	var out []keyRecord
	for _, k := range s.keys {
		out = append(out, keyRecord{k.Name, k.ID})
	}
	return out
}

// signedBy lists who vouches for a manifest: "KEY/BUNDLE" each.
func (a *Agent) signedBy(manifest string) []string {
	if manifest == "" {
		return nil
	}
	var out []string
	for _, f := range a.signed.Load().Find(manifest, time.Now()) {
		out = append(out, f.SignedBy...)
	}
	return out
}
