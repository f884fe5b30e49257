package watch

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/trust"
)

// follows collects what a list of peers tells.
func follows(t *testing.T, ctx context.Context, p *Peers) (next func(want string) Change) {
	all := make(chan Change, 1000)
	go p.Follow(ctx, "", func(_ Peer, changes []Change) error {
		for _, c := range changes {
			all <- c
		}
		return nil
	})
	return func(want string) Change {
		t.Helper()
		var seen []string
		for limit := time.After(30 * time.Second); ; {
			select {
			case c := <-all:
				if c.Code == want {
					return c
				}
				seen = append(seen, c.Code+": "+c.Text)
			case <-limit:
				t.Fatalf("not told of %s, but of %q; %+v", want, seen, p.List())
			}
		}
	}
}

// judging is an endpoint of h that judges by what grounds gives.
func (h *realHost) judging(grounds func() (channel.Grounds, error), points *channel.Checkpoints, interval time.Duration) *channel.Endpoint {
	h.t.Helper()
	e, err := channel.New(channel.Config{Key: h.channel, AKName: h.ak.Name(), Prover: h, Appraiser: &channel.Judge{Grounds: grounds, Checkpoints: points},
		Interval: interval, Limits: channel.Limits{QuoteEvery: time.Millisecond, QuoteBurst: 1 << 30}})
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

func watching(t *testing.T, ctx context.Context, e *channel.Endpoint, addr string) *Peers {
	t.Helper()
	p, err := OpenPeers(ctx, PeersConfig{Endpoint: e, File: filepath.Join(t.TempDir(), "peers.json"), Interval: 200 * time.Millisecond, Patience: 10 * time.Second,
		Failed: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Set("host-b", addr); err != nil {
		t.Fatal(err)
	}
	return p
}

// A revocation list runs out while a peer is watched: trust ends with it, by
// name, over a channel that was open and good all the time; and comes back with
// the next list.
func TestListRunsOutUnderWatch(t *testing.T) {
	ca := newAuthority(t)
	a, b := newRealHost(t, ca, "host-a"), newRealHost(t, ca, "host-b")
	number := int64(1)
	list := func(life time.Duration) []byte {
		number++
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(life),
		}, ca.cert, ca.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	var crl atomic.Pointer[[]byte]
	set := func(der []byte) { crl.Store(&der) }
	set(list(4 * time.Second))
	policy := ca.policy(t)
	ctx, cancel := context.WithCancel(t.Context())
	p := watching(t, ctx, a.judging(func() (channel.Grounds, error) {
		return channel.Grounds{Trust: policy, Revocation: [][]byte{*crl.Load()}}, nil
	}, nil, time.Minute), b.serve())
	defer p.Wait()
	defer cancel()
	next := follows(t, ctx, p)
	next(TrustBack)
	if c := next("revocation-stale"); c.To != NotTrusted || !strings.Contains(c.Hint, "sealift ca crl") {
		t.Errorf("%+v", c)
	}
	set(list(time.Hour))
	next(TrustBack)
	// The same where the file is taken away.
	set(nil)
	if c := next("revocation-missing"); c.To != NotTrusted {
		t.Errorf("%+v", c)
	}
}

// swap passes connections on to whoever stands at an address now.
type swap struct{ to atomic.Pointer[string] }

func (s *swap) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", *s.to.Load())
			if err != nil {
				in.Close()
				continue
			}
			from := *s.to.Load()
			// A connection lives as long as who it was to stands there.
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
			go func() {
				for *s.to.Load() == from {
					time.Sleep(10 * time.Millisecond)
				}
				in.Close()
				out.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// Another host of the fleet, as good as the first and certified by the same CA,
// takes the first one's place at its address: it is told by name, believed in
// nothing, and leaves nothing behind with the peer it is not.
func TestPeerSwappedAtItsAddress(t *testing.T) {
	ca := newAuthority(t)
	a, b := newRealHost(t, ca, "host-a"), newRealHost(t, ca, "host-b")
	c := newRealHost(t, ca, "host-c")
	policy := ca.policy(t)
	policy.Hosts = trust.Set{Any: true}
	grounds := func() (channel.Grounds, error) {
		return channel.Grounds{Trust: policy, Revocation: [][]byte{ca.crl}}, nil
	}
	for _, h := range []*realHost{b, c} {
		h.endpoint = h.judging(grounds, nil, time.Minute)
	}
	points, err := channel.OpenCheckpoints(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e := a.judging(grounds, points, time.Minute)
	addrB, addrC := b.serve(), c.serve()
	// Who is not asked for by name is believed: the naive watcher would be.
	naive, err := Dial(e, addrC, channel.Target{})(t.Context())
	if err != nil {
		t.Fatalf("host-c is not good by itself: this test tests nothing: %v", err)
	}
	naive.Close()

	var s swap
	s.to.Store(&addrB)
	ctx, cancel := context.WithCancel(t.Context())
	p := watching(t, ctx, e, s.serve(t))
	defer p.Wait()
	defer cancel()
	next := follows(t, ctx, p)
	next(TrustBack)
	s.to.Store(&addrC)
	if got := next("other-host"); got.Subject != "host-c" || got.To != NotTrusted {
		t.Errorf("%+v", got)
	}
	s.to.Store(&addrB)
	next(TrustBack)
	if v := standing(t, p, "host-b", Trusted).Verdict; v.Host != "host-b" {
		t.Errorf("trusted as %s", v.Host)
	}
}

// What a peer has proven cannot be written down: the disk is full, or read-only.
// Nobody is trusted on a word that will be forgotten, and it is not the peer's
// fault.
func TestCheckpointsCannotBeKept(t *testing.T) {
	ca := newAuthority(t)
	a, b := newRealHost(t, ca, "host-a"), newRealHost(t, ca, "host-b")
	dir := filepath.Join(t.TempDir(), "checkpoints")
	points, err := channel.OpenCheckpoints(dir)
	if err != nil {
		t.Fatal(err)
	}
	policy := ca.policy(t)
	e := a.judging(func() (channel.Grounds, error) {
		return channel.Grounds{Trust: policy, Revocation: [][]byte{ca.crl}}, nil
	}, points, time.Minute)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p := watching(t, ctx, e, b.serve())
	defer p.Wait()
	defer cancel()
	next := follows(t, ctx, p)
	if c := next(NotJudged); c.To != Unknown || !strings.Contains(c.Text, "checkpoint") {
		t.Errorf("%+v", c)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	next(TrustBack)
}
