package agent

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/eventlog"
)

// bypass is a container on this host that was not started through Sealift.
type bypass struct {
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	Runtime   string `json:"runtime,omitempty"`
	Image     string `json:"image,omitempty"`
	PID       uint32 `json:"pid,omitempty"`
}

// censusBody is the body of the "census" event.
type censusBody struct {
	Launched   int      `json:"launched"`
	Bypassing  []bypass `json:"bypassing,omitempty"`
	More       int      `json:"more,omitempty"`
	Unanswered []string `json:"unanswered,omitempty"`
}

const maxBypassing = 64

// census compares the tasks that containerd has with those that were launched
// here, and records the difference whenever it changes.
func (a *Agent) census(ctx context.Context) {
	last := "never taken"
	tick := time.NewTicker(time.Duration(a.config.Node.Census))
	defer tick.Stop()
	for {
		body := a.takeCensus(ctx)
		if ctx.Err() != nil {
			return
		}
		if now := body.summary(); now != last {
			if _, err := a.log.Append(ctx, eventlog.Event{Type: "census", Body: body}); err != nil {
				slog.Warn("census not recorded", "err", err)
			} else {
				last = now
			}
		}
		select {
		case <-tick.C:
		case <-a.recount:
			// Several containers may come at once.
			time.Sleep(censusSettle)
		case <-ctx.Done():
			return
		}
	}
}

const censusSettle = 500 * time.Millisecond

func (a *Agent) takeCensus(ctx context.Context) censusBody {
	var b censusBody
	seen, known := map[string]bool{}, map[string]bool{}
	// One that is deleted while containerd is asked was launched here all the same.
	for _, c := range a.registry.list() {
		known[c.key()] = true
	}
	for _, d := range a.daemons {
		namespaces, err := d.Namespaces(ctx)
		if err != nil {
			b.Unanswered = append(b.Unanswered, d.Address())
			continue
		}
		for _, ns := range namespaces {
			tasks, err := d.Tasks(ctx, ns)
			if err != nil {
				b.Unanswered = append(b.Unanswered, d.Address()+" "+ns)
				continue
			}
			for _, t := range tasks {
				seen[ns+"/"+t.ID] = true
				if _, ok := a.registry.get(ns, t.ID); ok || known[ns+"/"+t.ID] {
					b.Launched++
					continue
				}
				b.Bypassing = append(b.Bypassing, bypass{Namespace: ns, ID: t.ID, Runtime: t.Runtime, Image: t.Image, PID: t.PID})
			}
		}
	}
	slices.SortFunc(b.Bypassing, func(x, y bypass) int {
		return strings.Compare(x.Namespace+"/"+x.ID, y.Namespace+"/"+y.ID)
	})
	if len(b.Bypassing) > maxBypassing {
		b.More = len(b.Bypassing) - maxBypassing
		b.Bypassing = b.Bypassing[:maxBypassing]
	}
	a.mu.Lock()
	a.bypassing = b.Bypassing
	a.mu.Unlock()
	if len(b.Unanswered) == 0 {
		a.forgetGone(ctx, seen)
	}
	return b
}

// summary leaves out what changes without meaning: how many were launched.
func (b censusBody) summary() string {
	var s strings.Builder
	for _, x := range b.Bypassing {
		s.WriteString(x.Namespace + "/" + x.ID + " " + x.Runtime + "\n")
	}
	return s.String() + strings.Join(b.Unanswered, ",")
}

// goneGrace is how long containerd must have had no task for a container before
// it is given up: the clean-up after a killed shim reports its end a little late.
const goneGrace = 10 * time.Second

// vanishedBody is the body of the "vanished" event.
type vanishedBody struct {
	PID uint32 `json:"pid,omitempty"`
}

// forgetGone drops containers for which containerd has had no task for a while.
// One whose end nobody reported is recorded as vanished.
func (a *Agent) forgetGone(ctx context.Context, seen map[string]bool) {
	gone := map[string]time.Time{}
	for _, c := range a.registry.list() {
		if seen[c.key()] || c.State == "created" {
			continue
		}
		since, ok := a.gone[c.key()]
		if !ok {
			since = time.Now()
		}
		if time.Since(since) < goneGrace {
			gone[c.key()] = since
			continue
		}
		var err error
		if c.State != "stopped" {
			_, err = a.log.Append(ctx, eventlog.Event{Type: "vanished", Namespace: c.Namespace, Container: c.ID, Body: vanishedBody{PID: c.PID}})
		}
		if err == nil {
			err = a.registry.remove(c.Namespace, c.ID)
		}
		if err != nil {
			gone[c.key()] = since
			slog.Warn("forgetting a container", "namespace", c.Namespace, "container", c.ID, "err", err)
		}
	}
	a.gone = gone
}

func (b bypass) proto() *nodev1.Container {
	return &nodev1.Container{Namespace: b.Namespace, Id: b.ID, Image: b.Image, Runtime: b.Runtime, Pid: b.PID, State: "bypassing"}
}
