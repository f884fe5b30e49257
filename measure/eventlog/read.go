package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// EpochInfo names one epoch that the directory keeps.
type EpochInfo struct {
	ID                    Hash
	Number                uint64
	Instance, BootID, Dir string
	ResetCount            uint32
	State                 Name
	Cause                 Cause
}

// Epochs lists the epochs of a log's directory, oldest first. The state is the
// one the epoch began in.
func Epochs(dir string) ([]EpochInfo, error) {
	list, err := listEpochs(dir)
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	var out []EpochInfo
	for _, e := range list {
		r := newReplay()
		for line, err := range segmentLines(e.path) {
			if err == nil {
				_, err = r.feed(line)
			}
			if err != nil || r.epoch != nil {
				break
			}
		}
		if b := r.epoch; b != nil {
			out = append(out, EpochInfo{r.id, b.Number, b.Instance, b.BootID, e.path, b.ResetCount, b.State, b.Cause})
		}
	}
	return out, nil
}

// Lines gives the stored lines of one epoch, byte for byte and without their
// newlines; epoch is the beginning of its id, or empty for the newest. It needs
// neither the lock nor a running log; a last line without an end is left out.
func Lines(dir, epoch string) (iter.Seq2[[]byte, error], error) {
	list, err := Epochs(dir)
	if err != nil {
		return nil, err
	}
	var found []EpochInfo
	for _, e := range list {
		if strings.HasPrefix(e.ID.String(), epoch) {
			found = append(found, e)
		}
	}
	if epoch == "" && len(found) > 0 {
		found = found[len(found)-1:]
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("event log %s: no epoch %q\nhint: sealift log epochs lists them", dir, epoch)
	case 1:
		return segmentLines(found[0].Dir), nil
	}
	return nil, fmt.Errorf("event log %s: %d epochs begin with %q\nhint: give more digits", dir, len(found), epoch)
}

// LinesOf gives the lines of a reader, such as a file that was carried away.
func LinesOf(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		lines := newLineReader(r)
		for {
			b, _, err := lines.next()
			if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
				return
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

func segmentLines(dir string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		segments, err := listSegments(dir)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, path := range segments {
			f, err := os.Open(path)
			if err != nil {
				yield(nil, err)
				return
			}
			for b, err := range LinesOf(f) {
				if !yield(b, err) || err != nil {
					f.Close() // read only
					return
				}
			}
			f.Close() // read only
		}
	}
}

// LineSeq is the sequence number a stored line belongs to: an item's own, a
// batch's last.
func LineSeq(line []byte) (uint64, error) {
	if seq, ok := storedSeq(line); ok {
		return seq, nil
	}
	l, err := DecodeLine(line)
	switch {
	case err != nil:
		return 0, err
	case l.Item != nil:
		return l.Item.Seq, nil
	case l.Closed != nil:
		return l.Closed.Seq, nil
	}
	return l.Batch.Last(), nil
}

// storedSeq reads the number off a line as it is stored, without looking at the
// rest: whoever wants to know more decodes it.
func storedSeq(line []byte) (uint64, bool) {
	number := func(key string) (n uint64, ok bool) {
		rest, found := bytes.CutPrefix(line, []byte(key))
		for i, c := range rest {
			if c == ',' && i > 0 {
				line = rest[i:]
				return n, found
			}
			if c < '0' || c > '9' || i > 18 {
				break
			}
			n = 10*n + uint64(c-'0')
		}
		return 0, false
	}
	const epoch = len(`"epoch":"`) + 2*len(Hash{}) + len(`"`)
	for _, kind := range []string{`{"item":{`, `{"closed":{`, `{"batch":{`} {
		rest, ok := bytes.CutPrefix(line, []byte(kind))
		if !ok || len(rest) < epoch {
			continue
		}
		line = rest[epoch:]
		if kind != `{"batch":{` {
			return number(`,"seq":`)
		}
		first, ok := number(`,"first":`)
		if !ok {
			return 0, false
		}
		count, ok := number(`,"count":`)
		return first + count - 1, ok && count > 0
	}
	return 0, false
}

// Read calls f with each stored line of the present epoch whose sequence
// number is at least from, oldest first. Only what is in the TPM is given. With
// follow it goes on with lines as they are committed, and with the next epoch
// when one begins, until ctx ends (its error), f fails or the log is closed.
func (l *Log) Read(ctx context.Context, from uint64, follow bool, f func(seq uint64, line []byte) error) error {
	var at place
	for {
		l.mu.Lock()
		p, changed, closed := l.place, l.changed, l.closed
		l.mu.Unlock()
		if at.epoch != p.epoch {
			if at.dir != "" {
				from = 0 // the numbers of another epoch
			}
			at = place{dir: p.dir, epoch: p.epoch, index: 1}
		}
		if err := readBetween(ctx, &at, p, from, f); err != nil {
			return err
		}
		if !follow || closed || changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readBetween reads from at up to p, and moves at there.
func readBetween(ctx context.Context, at *place, p place, from uint64, f func(uint64, []byte) error) error {
	for ; at.index <= p.index && p.dir != ""; at.index, at.size = at.index+1, 0 {
		limit := p.size
		path := filepath.Join(at.dir, segmentName(at.index))
		if at.index < p.index {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			limit = info.Size()
		}
		if err := readSegment(ctx, path, at.size, limit, from, f); err != nil {
			return err
		}
		if at.index == p.index {
			at.size = limit
			return nil
		}
	}
	return nil
}

func readSegment(ctx context.Context, path string, start, limit int64, from uint64, f func(uint64, []byte) error) error {
	if start >= limit {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() // read only
	for line, err := range LinesOf(io.NewSectionReader(file, start, limit-start)) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		seq, err := LineSeq(line)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if seq < from {
			continue
		}
		if err := f(seq, append([]byte(nil), line...)); err != nil {
			return err
		}
	}
	return nil
}

// View gives a stored line as a tenant may see it: its own items open, those
// of others closed. What the log says of itself for the node stays open to
// everybody, since without it nothing can be replayed; so do the node's records
// of the types that the caller names.
func View(line []byte, namespace string, node ...string) ([]byte, error) {
	l, err := DecodeLine(line)
	if err != nil || l.Item == nil {
		return line, err
	}
	rec, err := l.Item.Open()
	if err != nil {
		return nil, err
	}
	if rec.Namespace == namespace || (rec.Namespace == "" && (ownType(rec.Type) || slices.Contains(node, rec.Type))) {
		return line, nil
	}
	c, err := l.Item.Close()
	if err != nil {
		return nil, err
	}
	return (&Line{Closed: c}).Encode()
}
