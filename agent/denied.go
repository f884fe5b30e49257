package agent

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
)

// deniedBody is the body of "denied": what was turned away at the node socket.
type deniedBody struct {
	Requests []deniedRequest `json:"requests"`
	// More counts requests beyond those listed.
	More uint64 `json:"more,omitempty"`
}

type deniedRequest struct {
	What  string `json:"what"`
	Count uint64 `json:"count"`
}

// peerRefusals gathers what was turned away, so that a flood of hostile
// requests costs the log one record a period and not one a request.
type peerRefusals struct {
	mu    sync.Mutex
	count map[string]uint64
	more  uint64
	poke  chan struct{}
	once  sync.Once
}

const (
	maxDenied    = 32
	deniedPeriod = 5 * time.Second
)

func (p *peerRefusals) init() { p.once.Do(func() { p.poke = make(chan struct{}, 1) }) }

// denied takes note of a request that was turned away.
func (a *Agent) denied(err error) {
	a.refusals.add(err.Error())
}

func (p *peerRefusals) add(what string) {
	p.init()
	p.mu.Lock()
	if p.count == nil {
		p.count = map[string]uint64{}
	}
	if _, ok := p.count[what]; ok || len(p.count) < maxDenied {
		p.count[what]++
	} else {
		p.more++
	}
	p.mu.Unlock()
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

func (p *peerRefusals) take() (b deniedBody) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for what, n := range p.count {
		b.Requests = append(b.Requests, deniedRequest{what, n})
	}
	slices.SortFunc(b.Requests, func(x, y deniedRequest) int { return strings.Compare(x.What, y.What) })
	b.More = p.more
	p.count, p.more = nil, 0
	return b
}

// report records what was turned away: the first at once, then one record a
// period at most.
func (p *peerRefusals) report(ctx context.Context, log *eventlog.Log) {
	p.init()
	for {
		select {
		case <-p.poke:
		case <-ctx.Done():
			return
		}
		b := p.take()
		if len(b.Requests) > 0 {
			for _, r := range b.Requests {
				slog.Warn("turned away", "what", r.What, "count", r.Count)
			}
			if _, err := log.Append(ctx, eventlog.Event{Type: "denied", Body: b, Reserved: true}); err != nil {
				slog.Warn("what was turned away is not recorded", "err", err)
			}
		}
		select {
		case <-time.After(deniedPeriod):
		case <-ctx.Done():
			return
		}
	}
}
