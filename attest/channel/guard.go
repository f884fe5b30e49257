package channel

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what peers may cost. A zero field has the default that is named
// beside it.
type Limits struct {
	// Handshakes under way as a server: in all (64), and from one source (4):
	// an IPv4 address, an IPv6 /64. Half of them are kept for sources that
	// have been trusted before.
	Handshakes, PerSource int
	// Strangers is how many handshakes may begin in a second with sources never
	// trusted before, in all (32), and a quarter of it with one.
	Strangers int
	// Connections are open channels that peers opened: in all (512), and with
	// one AK (8).
	Connections, PerPeer int
	// Evidence is the longest a peer may send (128 MiB); Held is what all peers
	// together may have sent that is not appraised yet (512 MiB), and one
	// source a quarter of it, but at least one piece of evidence.
	Evidence, Held int64
	// QuoteEvery and QuoteBurst bound the quotes made for one AK (one each
	// second; 4 at once); the TPM is asked for one at a time.
	QuoteEvery time.Duration
	QuoteBurst int
	// TLS and Hello are the time for these phases (5 s each); Proof is that
	// for either side's evidence in the handshake (30 s each).
	TLS, Hello, Proof time.Duration
	// Write is the time for one frame: peers read always (10 s).
	Write time.Duration
}

func (l Limits) filled() (Limits, error) {
	for _, f := range []struct {
		name string
		v    *int
		def  int
	}{
		{"handshakes", &l.Handshakes, 64}, {"handshakes of one source", &l.PerSource, 4},
		{"strangers a second", &l.Strangers, 32}, {"connections", &l.Connections, 512}, {"connections of one peer", &l.PerPeer, 8},
		{"quotes at once", &l.QuoteBurst, 4},
	} {
		if *f.v < 0 {
			return l, fmt.Errorf("channel: limit of %s is %d: not negative", f.name, *f.v)
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	for _, f := range []struct {
		name string
		v    *int64
		def  int64
	}{
		{"evidence", &l.Evidence, 128 << 20}, {"held evidence", &l.Held, 512 << 20},
		{"time between quotes", (*int64)(&l.QuoteEvery), int64(time.Second)},
		{"TLS time", (*int64)(&l.TLS), int64(5 * time.Second)}, {"hello time", (*int64)(&l.Hello), int64(5 * time.Second)},
		{"proof time", (*int64)(&l.Proof), int64(30 * time.Second)}, {"write time", (*int64)(&l.Write), int64(10 * time.Second)},
	} {
		if *f.v < 0 {
			return l, fmt.Errorf("channel: limit of %s is %d: not negative", f.name, *f.v)
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	if l.Evidence > 1<<32-1 || l.Held < l.Evidence {
		return l, fmt.Errorf("channel: limit of evidence is %d, of all that is held %d: wanted less than 4 GiB, and no more than is held", l.Evidence, l.Held)
	}
	return l, nil
}

// errBusy marks what a limit refused.
var errBusy = errors.New("busy")

func busy(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errBusy, fmt.Sprintf(format, args...))
}

// guard counts what peers cost together.
type guard struct {
	limits Limits
	// quote and first are turns: at the TPM, and at the appraisal of those who
	// called and were not appraised before.
	quote, first chan struct{}

	mu        sync.Mutex
	all       int
	strangers int
	sources   map[string]*source
	open      int
	peers     map[string]int
	held      int64
	known     recent[string, struct{}]
	// strange is the rate of strangers in all, calls that of each.
	strange *rate.Limiter
	calls   recent[string, *rate.Limiter]
	quotes  recent[string, *rate.Limiter]
}

// source is who has a handshake under way or evidence held; it is forgotten
// when it has neither.
type source struct {
	handshakes int
	held       int64
}

// remembered bounds the sources and AKs that are kept in mind.
const remembered = 1024

func newGuard(l Limits) *guard {
	return &guard{
		limits:  l,
		quote:   make(chan struct{}, 1),
		first:   make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		sources: map[string]*source{},
		peers:   map[string]int{},
		known:   recent[string, struct{}]{most: remembered},
		strange: rate.NewLimiter(rate.Limit(l.Strangers), l.Strangers),
		calls:   recent[string, *rate.Limiter]{most: remembered},
		quotes:  recent[string, *rate.Limiter]{most: remembered},
	}
}

// sourceOf names where a connection comes from: whoever has one address of an
// IPv6 network usually has all of its /64.
func sourceOf(c net.Conn) string {
	a := c.RemoteAddr()
	if a == nil {
		return ""
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	addr := p.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if n, err := addr.Prefix(64); err == nil {
			return n.String()
		}
	}
	return addr.String()
}

// admit takes a place for a handshake, or refuses at once.
func (g *guard) admit(from string) (release func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, known := g.known.get(from)
	s := g.sources[from]
	switch {
	case g.all >= g.limits.Handshakes:
		return nil, busy("%d handshakes are under way, which is the limit", g.all)
	case !known && g.strangers >= max(1, g.limits.Handshakes/2):
		return nil, busy("%d handshakes with sources never trusted before are under way, which is the limit", g.strangers)
	case s != nil && s.handshakes >= g.limits.PerSource:
		return nil, busy("%d handshakes with %s are under way, which is the limit", s.handshakes, from)
	case !known && !g.slowEnough(from):
		return nil, busy("strangers begin more than %d handshakes a second, or %s does a quarter of that", g.limits.Strangers, from)
	}
	g.all++
	if !known {
		g.strangers++
	}
	g.source(from).handshakes++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.all--
		if !known {
			g.strangers--
		}
		g.source(from).handshakes--
		g.tidy(from)
	}), nil
}

// slowEnough takes a stranger's handshake from its own rate and that of all. Its
// own comes first: one that is too fast costs the others nothing.
func (g *guard) slowEnough(from string) bool {
	own, ok := g.calls.get(from)
	if !ok {
		each := max(1, g.limits.Strangers/4)
		own = rate.NewLimiter(rate.Limit(each), each)
		g.calls.put(from, own)
	}
	return own.Allow() && g.strange.Allow()
}

func (g *guard) source(from string) *source {
	s := g.sources[from]
	if s == nil {
		s = &source{}
		g.sources[from] = s
	}
	return s
}

func (g *guard) tidy(from string) {
	if s := g.sources[from]; s != nil && s.handshakes == 0 && s.held == 0 {
		delete(g.sources, from)
	}
}

// trusted remembers a source, and counts an open channel that it opened.
func (g *guard) trusted(from string, akName []byte) (release func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := string(akName)
	switch {
	case g.open >= g.limits.Connections:
		return nil, busy("%d channels are open, which is the limit", g.open)
	case g.peers[key] >= g.limits.PerPeer:
		return nil, busy("%d channels with this host are open, which is the limit", g.peers[key])
	}
	g.known.put(from, struct{}{})
	g.open++
	g.peers[key]++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.open--
		if g.peers[key]--; g.peers[key] == 0 {
			delete(g.peers, key)
		}
	}), nil
}

// hold counts n bytes of evidence that arrived and are not appraised yet: what
// a peer announces costs nothing, what it sends does.
func (g *guard) hold(from string, n int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.source(from)
	if share := max(g.limits.Held/4, g.limits.Evidence); g.held+n > g.limits.Held || s.held+n > share {
		g.tidy(from)
		return busy("evidence of %d bytes is held, %d of it from %s, which is the limit", g.held, s.held, from)
	}
	g.held += n
	s.held += n
	return nil
}

func (g *guard) drop(from string, n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held -= n
	g.source(from).held -= n
	g.tidy(from)
}

// turn waits until a quote may be made for the AK. The rate comes first, so
// that a peer that asks too often keeps nobody else from the TPM.
func (g *guard) turn(ctx context.Context, akName []byte) (release func(), err error) {
	g.mu.Lock()
	l, ok := g.quotes.get(string(akName))
	if !ok {
		l = rate.NewLimiter(rate.Every(g.limits.QuoteEvery), g.limits.QuoteBurst)
		g.quotes.put(string(akName), l)
	}
	g.mu.Unlock()
	if err := l.Wait(ctx); err != nil {
		return nil, busy("this host asked for more than one quote in %s", g.limits.QuoteEvery)
	}
	select {
	case g.quote <- struct{}{}:
		return func() { <-g.quote }, nil
	case <-ctx.Done():
		return nil, busy("quotes for other peers come first: %v", context.Cause(ctx))
	}
}

// hear waits until evidence may be appraised. Strangers share half of the
// processors; whoever was trusted before, or was called, does not wait for them.
func (g *guard) hear(ctx context.Context, stranger bool) (release func(), err error) {
	if !stranger {
		return func() {}, nil
	}
	select {
	case g.first <- struct{}{}:
		return func() { <-g.first }, nil
	case <-ctx.Done():
		return nil, busy("evidence of others is appraised first: %v", context.Cause(ctx))
	}
}

// recent is a map that forgets what was used longest ago.
type recent[K comparable, V any] struct {
	most  int
	order list.List
	index map[K]*list.Element
}

type recentEntry[K comparable, V any] struct {
	key   K
	value V
}

func (r *recent[K, V]) get(k K) (V, bool) {
	e, ok := r.index[k]
	if !ok {
		var zero V
		return zero, false
	}
	r.order.MoveToFront(e)
	return e.Value.(*recentEntry[K, V]).value, true
}

func (r *recent[K, V]) put(k K, v V) {
	if e, ok := r.index[k]; ok {
		e.Value.(*recentEntry[K, V]).value = v
		r.order.MoveToFront(e)
		return
	}
	if r.index == nil {
		r.index = map[K]*list.Element{}
	}
	r.index[k] = r.order.PushFront(&recentEntry[K, V]{k, v})
	if r.order.Len() > r.most {
		last := r.order.Back()
		r.order.Remove(last)
		delete(r.index, last.Value.(*recentEntry[K, V]).key)
	}
}
