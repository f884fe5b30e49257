package agent

import (
	"context"
	"sync"
	"time"
)

// gather lets launches that are examined at the same time be recorded in one
// batch. An extend of a hardware TPM takes 1 to 20 ms; without gathering, starts
// that come together would trickle into many batches as their examinations end,
// and queue up behind one another's extends. With a fast TPM nobody waits.
type gather struct {
	mu sync.Mutex
	// examining are the launches being examined, by when they began.
	examining map[*time.Time]struct{}
	left      chan struct{}
	// appended is a moving average of how long recording takes.
	appended time.Duration
}

const (
	// worthwhile is the time of recording from which gathering begins to pay.
	worthwhile = 3 * time.Millisecond
	// patience bounds the wait, in times of one recording and in all.
	patienceFactor = 8
	patienceLimit  = 100 * time.Millisecond
)

func newGather() *gather {
	return &gather{examining: map[*time.Time]struct{}{}, left: make(chan struct{})}
}

// enter takes note of an examination; the function returned ends it.
func (g *gather) enter() (leave func()) {
	began := time.Now()
	g.mu.Lock()
	g.examining[&began] = struct{}{}
	g.mu.Unlock()
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.examining, &began)
		close(g.left)
		g.left = make(chan struct{})
	}
}

// wait returns when no other launch is about to be recorded too, or when waiting
// any longer would cost more than it saves.
func (g *gather) wait(ctx context.Context) {
	g.mu.Lock()
	limit := min(patienceFactor*g.appended, patienceLimit)
	slow := g.appended >= worthwhile
	g.mu.Unlock()
	if !slow {
		return
	}
	end := time.NewTimer(limit)
	defer end.Stop()
	for {
		left, others := g.others(limit)
		if !others {
			return
		}
		select {
		case <-left:
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// others says whether launches are under examination that will not take long:
// one that hashes an image is not waited for.
func (g *gather) others(young time.Duration) (<-chan struct{}, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for began := range g.examining {
		if time.Since(*began) < young {
			return g.left, true
		}
	}
	return g.left, false
}

// took takes note of how long one recording took.
func (g *gather) took(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.appended += (d - g.appended) / 4
}
