package eventlog

import (
	"context"
	"fmt"
)

// Look has the PCR looked at now, and what it shows recorded, ahead of the next
// watch. When it returns, no batch that was under way at the call is: whatever
// was in the TPM by then stands in what Read gives. Its error is ctx's, or an
// *UnavailableError when the log is closed or nothing can be recorded.
func (l *Log) Look(ctx context.Context) error {
	seen := make(chan struct{})
	select {
	case l.looks <- seen:
	case <-l.stop:
		return &UnavailableError{State: l.unavailableNow(errLogClosed), Err: errLogClosed}
	case <-ctx.Done():
		return fmt.Errorf("event log: look at the PCR: %w", ctx.Err())
	}
	select {
	case <-seen:
	case <-ctx.Done():
		return fmt.Errorf("event log: look at the PCR: %w", ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		return &UnavailableError{State: l.stateLocked(), Err: l.out.err}
	}
	return nil
}

func (l *Log) unavailableNow(err error) State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unavailable(CauseClosed, err)
}

// look serves one Look; only the committer calls it.
func (l *Log) look(seen chan struct{}) {
	defer close(seen)
	l.mu.Lock()
	out := l.out
	l.mu.Unlock()
	if out != nil {
		l.settle()
	} else {
		l.watch()
	}
	for l.commitNext() {
	}
}
