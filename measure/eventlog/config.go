package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealift/sealift/measure/tpm"
)

// Config says where the log is and what it may use. Zero values of what is
// optional mean the defaults named with the fields.
type Config struct {
	// Dir is the log's directory; it is made if it is not there.
	Dir string
	// Device is the TPM; Log does not close it.
	Device tpm.Device
	// PCR is 10 to 15: extendable by an operating system, resettable by none.
	PCR int
	// BootID is the kernel's boot id, Instance names this host among those that
	// share a kernel or a TPM.
	BootID, Instance string
	// Initial is the PCR's value as replayed from the quoted boot log; nil: zero.
	Initial tpm.Values
	// Running lists the containers that run now; it is asked when an epoch
	// begins that has no record of their start. nil: none are listed.
	Running func(context.Context) ([]Container, error)

	// Timeout bounds one batch: reading, extending and reading again (1.5 s).
	Timeout time.Duration
	// SyncLag is how long after a batch its bytes may be off the disk (100 ms).
	// A batch that holds an Event with Sync is on the disk before its extend.
	SyncLag time.Duration
	// Watch is how often the PCR is looked at when nothing happens (5 s); less
	// than zero: never.
	Watch time.Duration
	// Window is for how long equal events are counted (60 s).
	Window time.Duration
	// SegmentBytes is where a segment is followed by the next (8 MiB), MaxBytes
	// what one epoch may take (1 GiB), Reserve what only reserved events may
	// take of the disk and of MaxBytes (1 MiB).
	SegmentBytes, MaxBytes, Reserve int64
	// Quota bounds each namespace: 4 MiB a minute, a burst of 16 MiB, half of
	// MaxBytes.
	Quota Quota
	// Now is the clock, for tests; nil: time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Dir == "":
		return c, errors.New("event log: no directory is configured")
	case c.Device == nil:
		return c, errors.New("event log: no TPM is configured")
	case c.PCR < 10 || c.PCR > 15:
		return c, fmt.Errorf("event log: PCR %d: only 10 to 15 can be extended by a running system and reset by none\nhint: choose one of them, 13 is the default", c.PCR)
	case c.BootID == "":
		return c, errors.New("event log: no boot id is configured")
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Timeout, tpm.Timeout)
	def(&c.SyncLag, 100*time.Millisecond)
	def(&c.Watch, 5*time.Second)
	def(&c.Window, time.Minute)
	num := func(n *int64, v int64) {
		if *n == 0 {
			*n = v
		}
	}
	num(&c.SegmentBytes, 8<<20)
	num(&c.MaxBytes, 1<<30)
	num(&c.Reserve, 1<<20)
	num(&c.Quota.BytesPerMinute, 4<<20)
	num(&c.Quota.Burst, 16<<20)
	if c.Quota.Share == 0 {
		c.Quota.Share = 0.5
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if 2*c.Reserve > c.MaxBytes {
		return c, fmt.Errorf("event log: a reserve of %d bytes does not fit in a log of %d\nhint: give the log at least twice its reserve", c.Reserve, c.MaxBytes)
	}
	return c, nil
}

// Container names one container of the node.
type Container struct{ Namespace, ID string }

// Event is what a caller wants recorded.
type Event struct {
	// Type is 1 to 64 of a-z, 0-9 and hyphen; the prefix "log-" is the log's own.
	Type string
	// Namespace is the containerd namespace, "" for the node itself.
	Namespace, Container string
	// Body is encoded by Marshal; Raw is taken as it is.
	Body any
	// Salted are values of which only salted hashes are recorded.
	Salted map[string][]byte
	// Start says that the event lets something start: it is refused with
	// *StateError while the log's state does not allow starts.
	Start bool
	// Reserved says that the event happened in any case (a refusal, a
	// violation, an exit): it may use reserved space, and over its namespace's
	// quota it is counted instead of refused.
	Reserved bool
	// Sync has the event on the disk before it is extended.
	Sync bool
	// Coalesce names events that are the same within their container: within a
	// window after the first, repeats are counted instead of recorded. Empty:
	// each is recorded.
	Coalesce string
}
