package watch

import (
	"context"
	"fmt"
)

// maxBehind is how many changes a follower may be behind.
const maxBehind = 1024

// follower is somebody who is told of changes.
type follower struct {
	name   string
	events chan news
}

type news struct {
	peer    Peer
	changes []Change
}

// tell passes a look on to the followers. One that cannot keep up is let go:
// nobody waits for it.
func (p *Peers) tell(e *entry, s Status, changes []Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.status = s
	if len(changes) == 0 || p.entries[e.Name] != e {
		return
	}
	for f := range p.followers {
		if f.name != "" && f.name != e.Name {
			continue
		}
		select {
		case f.events <- news{Peer{e.Name, e.Address, s}, changes}:
		default:
			delete(p.followers, f)
			close(f.events)
		}
	}
}

// Follow calls f with how each peer stands, then with each of its changes, until
// ctx ends or f returns an error. Name is of one peer, or empty.
func (p *Peers) Follow(ctx context.Context, name string, f func(Peer, []Change) error) error {
	fl := &follower{name: name, events: make(chan news, maxBehind)}
	p.mu.Lock()
	now := p.list(name)
	if name != "" && len(now) == 0 {
		p.mu.Unlock()
		return &NotAPeerError{name}
	}
	p.followers[fl] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.followers, fl)
		p.mu.Unlock()
	}()
	for _, x := range now {
		if err := f(x, nil); err != nil {
			return err
		}
	}
	for {
		select {
		case x, ok := <-fl.events:
			if !ok {
				return fmt.Errorf("peers: more than %d changes were not taken", maxBehind)
			}
			if err := f(x.peer, x.changes); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
}
