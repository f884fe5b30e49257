package eventlog

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// syncLoop brings what was committed to the disk, SyncLag behind at most, and
// the head file after it.
func (l *Log) syncLoop() {
	defer l.done.Done()
	failed := false
	for {
		select {
		case <-l.stop:
			return
		case <-l.dirty:
		}
		select {
		case <-l.stop:
			return
		case <-time.After(l.c.SyncLag):
		}
		err := l.Sync()
		if err != nil && !failed {
			slog.Error("event log: sync", "directory", l.c.Dir, "error", err)
		}
		failed = err != nil
	}
}

// Sync brings all that is committed to the disk now, and the head file up to
// date. Without room for the head file the old one stays: it says less, and
// nothing wrong.
func (l *Log) Sync() error {
	l.mu.Lock()
	s, p, head := l.state, l.place, l.headLocked()
	l.mu.Unlock()
	if head == nil {
		return nil
	}
	// A segment that was followed by another meanwhile is closed, and was on
	// the disk before that.
	if err := p.file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	l.mu.Lock()
	if l.state.Epoch == s.Epoch {
		l.state.SyncedSeq = max(l.state.SyncedSeq, s.Seq)
	}
	l.mu.Unlock()
	b, err := Marshal(head)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(l.c.Dir, headName), b)
}

// headLocked is the head file's content. The caller holds l.mu.
func (l *Log) headLocked() *headBody {
	if l.place.file == nil {
		return nil
	}
	return l.headNow
}

// Close records what is counted and still open, brings all to the disk and
// gives the log up. Events that come later are refused; it may be called twice.
func (l *Log) Close() error {
	l.closing.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.stop)
		l.done.Wait()
		l.mu.Lock()
		waiting := l.queue
		l.queue = nil
		close(l.changed)
		l.changed = nil
		l.mu.Unlock()
		l.raise(CauseClosed, errLogClosed)
		l.refuse(waiting)
		l.closeErr = errors.Join(l.Sync(), l.st.close(), l.lock.Close())
	})
	return l.closeErr
}
