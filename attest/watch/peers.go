package watch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/internal/durable"
)

// PeersConfig is what the peers of one agent are watched with.
type PeersConfig struct {
	Endpoint *channel.Endpoint
	// Checkpoints are forgotten with a peer that is removed; nil: there are none.
	Checkpoints *channel.Checkpoints
	// File keeps the list, and what is held against whom.
	File string
	// Interval and Patience are as in Config.
	Interval, Patience time.Duration
	// Failed is told what went wrong with the file while a peer was watched.
	Failed func(error)
}

// Peer is one entry of the list.
type Peer struct {
	Name, Address string
	Status        Status
}

// Peers is the list of peers, each watched. It may be used by several
// goroutines.
type Peers struct {
	cfg PeersConfig
	ctx context.Context
	wg  sync.WaitGroup

	mu        sync.Mutex
	entries   map[string]*entry
	followers map[*follower]bool
}

// entry is a peer, as it is kept and as it is watched.
type entry struct {
	kept
	watcher *Watcher
	// status is as followers were told.
	status Status
	stop   context.CancelFunc
	done   chan struct{}
}

// kept is an entry in the file.
type kept struct {
	Name     string  `json:"name"`
	Address  string  `json:"address"`
	AKName   []byte  `json:"akName,omitempty"`
	Caught   *Reason `json:"caught,omitempty"`
	CaughtIn string  `json:"caughtIn,omitempty"`
}

// maxPeers bounds the list.
const maxPeers = 256

// NotAPeerError says that no peer has the name.
type NotAPeerError struct{ Name string }

func (e *NotAPeerError) Error() string {
	return fmt.Sprintf("peer %s: not in the list\nhint: sealift peer list; sealift peer add", e.Name)
}

// OpenPeers reads the list and watches everybody on it until ctx ends; Wait
// waits for the end.
func OpenPeers(ctx context.Context, cfg PeersConfig) (*Peers, error) {
	if cfg.Endpoint == nil || cfg.File == "" {
		return nil, errors.New("peers: need an endpoint and a file")
	}
	p := &Peers{cfg: cfg, ctx: ctx, entries: map[string]*entry{}, followers: map[*follower]bool{}}
	text, err := os.ReadFile(cfg.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, nil
	case err != nil:
		return nil, fmt.Errorf("peers: %w", err)
	}
	var list []kept
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("peers: %s: %w\nhint: move the file away, and add the peers again", cfg.File, err)
	}
	for _, k := range list {
		if err := p.watch(k); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// watch starts a watcher for an entry; the caller holds mu, or is alone.
func (p *Peers) watch(k kept) error {
	e := &entry{kept: k, status: Status{State: Unknown}, done: make(chan struct{})}
	var err error
	e.watcher, err = New(Config{
		Peer: k.Name, Interval: p.cfg.Interval, Patience: p.cfg.Patience,
		Open:    Dial(p.cfg.Endpoint, k.Address, channel.Target{Host: k.Name}),
		Changed: func(s Status, changes []Change) { p.tell(e, s, changes) },
		keep:    func(m memory, akName []byte) { p.keep(e, m, akName) },
		memory:  memory{k.Caught, k.CaughtIn},
	})
	if err != nil {
		return err
	}
	var ctx context.Context
	ctx, e.stop = context.WithCancel(p.ctx)
	p.entries[k.Name] = e
	p.wg.Go(func() {
		defer close(e.done)
		e.watcher.Run(ctx)
	})
	return nil
}

// save writes the list; the caller holds mu.
func (p *Peers) save() error {
	list := make([]kept, 0, len(p.entries))
	for _, e := range p.entries {
		list = append(list, e.kept)
	}
	slices.SortFunc(list, func(a, b kept) int { return cmp.Compare(a.Name, b.Name) })
	text, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = durable.Write(p.cfg.File, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	return nil
}

// keep is a watcher's word on what has to outlive it.
func (p *Peers) keep(e *entry, m memory, akName []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries[e.Name] != e {
		return
	}
	k := e.kept
	k.Caught, k.CaughtIn = m.caught, m.caughtIn
	if len(akName) > 0 {
		k.AKName = akName
	}
	if k.Caught == e.Caught && k.CaughtIn == e.CaughtIn && bytes.Equal(k.AKName, e.AKName) {
		return
	}
	e.kept = k
	if err := p.save(); err != nil && p.cfg.Failed != nil {
		p.cfg.Failed(err)
	}
}

// Set adds a peer, or gives it another address; what is held against it stays.
func (p *Peers) Set(name, address string) error {
	// Another name is in no certificate, and would never be found there.
	if err := certificate.CheckHost(name); err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	if _, port, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("peers: %w", err)
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("peers: address %s: %q is not a port's number\nhint: as in 10.0.0.2:7443", address, port)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := kept{Name: name}
	old := p.entries[name]
	switch {
	case old != nil && old.Address == address:
		return nil
	case old != nil:
		k = old.kept
		old.stop()
	case len(p.entries) >= maxPeers:
		return fmt.Errorf("peers: %d hosts are on the list, which is the limit", len(p.entries))
	}
	k.Address = address
	if err := p.watch(k); err != nil {
		return err
	}
	return p.save()
}

// Remove stops watching a peer and forgets what it has proven, and what it was
// caught at. Its error is a *NotAPeerError if there is no such peer.
func (p *Peers) Remove(name string) error {
	p.mu.Lock()
	e := p.entries[name]
	if e == nil {
		p.mu.Unlock()
		return &NotAPeerError{name}
	}
	delete(p.entries, name)
	err := p.save()
	p.mu.Unlock()
	e.stop()
	<-e.done
	if p.cfg.Checkpoints != nil && len(e.AKName) > 0 {
		err = errors.Join(err, p.cfg.Checkpoints.Forget(e.AKName))
	}
	return err
}

// List gives the peers by name.
func (p *Peers) List() []Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list("")
}

func (p *Peers) list(name string) []Peer {
	var out []Peer
	for _, e := range p.entries {
		if name == "" || name == e.Name {
			out = append(out, Peer{e.Name, e.Address, e.status})
		}
	}
	slices.SortFunc(out, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Check has the named peer prove itself now, or all of them (""), and returns
// how they stand after that.
func (p *Peers) Check(ctx context.Context, name string) ([]Peer, error) {
	p.mu.Lock()
	var all []*entry
	for _, e := range p.entries {
		if name == "" || name == e.Name {
			all = append(all, e)
		}
	}
	p.mu.Unlock()
	if name != "" && len(all) == 0 {
		return nil, &NotAPeerError{name}
	}
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, e := range all {
		wg.Go(func() {
			// Whoever is removed meanwhile answers no more.
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() {
				select {
				case <-e.done:
					cancel()
				case <-ctx.Done():
				}
			}()
			_, errs[i] = e.watcher.Check(ctx)
		})
	}
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list(name), errors.Join(errs...)
}

// Wait returns when every watcher has ended, after the context of OpenPeers.
func (p *Peers) Wait() { p.wg.Wait() }
