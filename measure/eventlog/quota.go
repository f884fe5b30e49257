package eventlog

import (
	"fmt"
	"time"
)

// Quota bounds what one containerd namespace may write. The node's own events
// (namespace "") have no quota.
type Quota struct {
	// BytesPerMinute is the long-run rate, Burst what may come at once.
	BytesPerMinute, Burst int64
	// Share is the part of Config.MaxBytes one namespace may fill in an epoch.
	Share float64
}

// QuotaError refuses an event because its own namespace wrote too much.
type QuotaError struct {
	Namespace string
	// Reason says which bound, in a sentence.
	Reason string
	// RetryAfter is when the rate allows the event; 0 when only the next epoch does.
	RetryAfter time.Duration
}

func (e *QuotaError) Error() string {
	hint := "the namespace's share of this boot's log is used up: raise the quota in the configuration, or reboot"
	if e.RetryAfter > 0 {
		hint = fmt.Sprintf("slow down and try again in %v, or raise the quota in the configuration; other namespaces are not affected", e.RetryAfter.Round(time.Second))
	}
	return withHint(fmt.Sprintf("event log: namespace %q: %s", e.Namespace, e.Reason), hint)
}

// account is one namespace's consumption.
type account struct {
	tokens  float64
	at      time.Time
	written int64
	// reserve is what it took of the reserved space.
	reserve int64
	// over counts, by type, what was not recorded one by one.
	over map[string]*counted
}

// counted is a number of like events and when they were.
type counted struct {
	count       uint64
	first, last time.Time
}

func (c *counted) add(now time.Time) {
	if c.count == 0 {
		c.first = now
	}
	c.count++
	c.last = now
}

// maxOverTypes bounds the types counted one by one; the rest share a name.
const maxOverTypes = 16

// quotas holds the accounts. The caller holds Log.mu.
type quotas struct {
	q        Quota
	maxBytes int64
	accounts map[string]*account
}

func (q *quotas) of(namespace string, now time.Time) *account {
	a := q.accounts[namespace]
	if a == nil {
		a = &account{tokens: float64(q.q.Burst), at: now, over: map[string]*counted{}}
		q.accounts[namespace] = a
	}
	a.tokens += now.Sub(a.at).Minutes() * float64(q.q.BytesPerMinute)
	a.tokens = min(a.tokens, float64(q.q.Burst))
	a.at = now
	return a
}

// take charges n bytes to the namespace, or says why not.
func (q *quotas) take(namespace string, n int64, now time.Time) error {
	if namespace == "" {
		return nil
	}
	a := q.of(namespace, now)
	if share := int64(q.q.Share * float64(q.maxBytes)); a.written+n > share {
		return &QuotaError{Namespace: namespace, Reason: fmt.Sprintf("wrote %d of %d bytes, its share of the log", a.written, share)}
	}
	if float64(n) > a.tokens {
		wait := time.Duration((float64(n) - a.tokens) / float64(q.q.BytesPerMinute) * float64(time.Minute))
		return &QuotaError{Namespace: namespace, Reason: fmt.Sprintf("writes more than %d bytes a minute", q.q.BytesPerMinute), RetryAfter: max(wait, time.Second)}
	}
	a.tokens -= float64(n)
	a.written += n
	return nil
}

// count notes an event that happened and is not recorded by itself.
func (q *quotas) count(namespace, kind string, now time.Time) {
	a := q.of(namespace, now)
	c := a.over[kind]
	if c == nil {
		if len(a.over) >= maxOverTypes {
			kind = "other"
		}
		if c = a.over[kind]; c == nil {
			c = &counted{}
			a.over[kind] = c
		}
	}
	c.add(now)
}

// reserveParts is how many namespaces may drain the reserve before the last.
const reserveParts = 8

// takeReserve lets a namespace have its part of the reserved space.
func (q *quotas) takeReserve(namespace string, n, reserve int64, now time.Time) bool {
	if namespace == "" {
		return true
	}
	a := q.of(namespace, now)
	if a.reserve+n > reserve/reserveParts {
		return false
	}
	a.reserve += n
	return true
}
