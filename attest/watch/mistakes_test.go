package watch

import (
	"path/filepath"
	"testing"
	"time"
)

// A peer that can never be found is not put on the list without a word.
func TestNoSuchPeer(t *testing.T) {
	f := &fleet{all: map[string]*agent{}}
	p, err := OpenPeers(t.Context(), PeersConfig{Endpoint: f.agent(t, "a", time.Minute).endpoint, File: filepath.Join(t.TempDir(), "peers.json")})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range [][2]string{
		{"", "127.0.0.1:1"}, {"Node-B", "127.0.0.1:1"}, {"node b", "127.0.0.1:1"}, {"node-b\n", "127.0.0.1:1"},
		{"node-b", "127.0.0.1"}, {"node-b", "127.0.0.1:"}, {"node-b", "127.0.0.1:0"}, {"node-b", "127.0.0.1:65536"}, {"node-b", "127.0.0.1:sealift"}, {"node-b", "::1:7443"},
	} {
		if err := p.Set(x[0], x[1]); err == nil {
			t.Errorf("%q at %q: is on the list", x[0], x[1])
		}
	}
	if l := p.List(); len(l) != 0 {
		t.Errorf("%+v", l)
	}
}
