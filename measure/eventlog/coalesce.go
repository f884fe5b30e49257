package eventlog

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// window counts repeats of one recorded event until it closes.
type window struct {
	key       string
	of        uint64
	epoch     Hash
	namespace string
	container string
	kind      string
	ends      time.Time
	repeats   counted
}

// maxWindows bounds the open windows of a namespace; beyond it events are
// recorded one by one and the quota bounds them.
const maxWindows = 256

// windows holds the open ones. The caller holds Log.mu.
type windows struct {
	open map[string]*window
	of   map[string]int
}

func newWindows() *windows { return &windows{open: map[string]*window{}, of: map[string]int{}} }

// windowKey tells whether two events are the same for counting: the caller's
// key within its own container, and what must not be read in clear.
func windowKey(e *Event) string {
	b := []byte(e.Coalesce)
	for _, name := range slices.Sorted(maps.Keys(e.Salted)) {
		h := SaltedHash(Hash{}, name, e.Salted[name])
		b = append(b, h[:]...)
	}
	return strings.Join([]string{e.Namespace, e.Container, e.Type, string(b)}, "\x00")
}

// repeat counts the event when its window is open, and names the record that
// stands for it.
func (w *windows) repeat(key string, now time.Time) (uint64, bool) {
	x := w.open[key]
	if x == nil || !now.Before(x.ends) {
		return 0, false
	}
	x.repeats.add(now)
	return x.of, true
}

// add opens a window for a record that was just committed.
func (w *windows) add(x *window) {
	if w.open[x.key] != nil || w.of[x.namespace] >= maxWindows {
		return
	}
	w.open[x.key] = x
	w.of[x.namespace]++
}

// full says that the namespace can open no more windows.
func (w *windows) full(namespace string) bool { return w.of[namespace] >= maxWindows }

// closed takes out the windows that ended; all of them with force.
func (w *windows) closed(now time.Time, force bool) []*window {
	var out []*window
	for key, x := range w.open {
		if !force && now.Before(x.ends) {
			continue
		}
		delete(w.open, key)
		if w.of[x.namespace]--; w.of[x.namespace] == 0 {
			delete(w.of, x.namespace)
		}
		if x.repeats.count > 0 {
			out = append(out, x)
		}
	}
	slices.SortFunc(out, func(a, b *window) int { return int(int64(a.of - b.of)) })
	return out
}

// flush turns what was counted into records of the log's own. The caller holds
// Log.mu.
func (l *Log) flush(now time.Time, force bool) {
	for _, w := range l.windows.closed(now, force) {
		of := w.of
		if w.epoch != l.state.Epoch {
			of = 0 // the number means nothing in another epoch
		}
		l.ownLocked(w.namespace, w.container, typeCoalesced, coalescedBody{
			Of: of, Type: w.kind, Count: w.repeats.count, First: Time{w.repeats.first}, Last: Time{w.repeats.last},
			Reason: "repeats within the window of a record",
		})
	}
	if !force && now.Sub(l.flushed) < l.c.Window {
		return
	}
	l.flushed = now
	for _, ns := range slices.Sorted(maps.Keys(l.quotas.accounts)) {
		a := l.quotas.accounts[ns]
		for _, kind := range slices.Sorted(maps.Keys(a.over)) {
			c := a.over[kind]
			l.ownLocked(ns, "", typeCoalesced, coalescedBody{
				Type: kind, Count: c.count, First: Time{c.first}, Last: Time{c.last},
				Reason: "over the namespace's quota, or its part of the reserved space",
			})
		}
		clear(a.over)
	}
}
