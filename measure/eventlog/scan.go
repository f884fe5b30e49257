package eventlog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sealift/sealift/measure/tpm"
)

// scan is what an epoch's stored lines and the PCR's present value say together.
type scan struct {
	*replay
	dir string
	// last is the last batch, end where it ends and the bytes after it begin.
	last *step
	// lastAt is where the last batch begins, in the newest segment.
	lastAt, end int64
	// lastNewest says that the last batch is in the newest segment.
	lastNewest bool
	// bad is set when a line is not what it should be; lines after it were not read.
	bad error
	// trailing counts bytes after the last whole batch.
	trailing int64
	// matched says that the PCR is at a value of the log; atEnd, that this is
	// the value after the last batch; atLast, the value before it.
	matched, atEnd, atLast bool
	// unended is set when the trailing bytes may be the beginning of a batch.
	unended bool
}

// scanEpoch replays an epoch's directory and looks for the PCR's values in it.
func scanEpoch(dir string, pcr tpm.Values) (*scan, error) {
	s := &scan{replay: newReplay(), dir: dir}
	segments, err := listSegments(dir)
	if err != nil {
		s.bad = err
		return s, nil
	}
	for i, path := range segments {
		if err := s.segment(path, pcr, i == len(segments)-1); err != nil {
			return nil, err
		}
		if s.bad != nil {
			break
		}
	}
	if s.last != nil {
		s.atEnd = pcr.Equal(s.last.after)
		s.atLast = pcr.Equal(s.last.before)
	}
	return s, nil
}

func (s *scan) segment(path string, pcr tpm.Values, newest bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	s.end, s.trailing = 0, 0
	lines := newLineReader(f)
	began := int64(0)
	for {
		text, n, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, errTorn) && newest {
			s.trailing += n
			s.unended = true
			return nil
		}
		if err != nil {
			s.bad = fmt.Errorf("%s: %w", path, err)
			return nil
		}
		first := s.epoch == nil
		st, err := s.feed(text)
		if err != nil {
			s.bad = fmt.Errorf("%s: %w", path, err)
			return nil
		}
		if first && s.epoch != nil && pcr.Equal(s.values) {
			s.matched = true
		}
		s.trailing += n
		if st != nil {
			s.last, s.lastAt, s.lastNewest = st, began, newest
			s.end += s.trailing
			s.trailing = 0
			began = s.end
			if pcr.Equal(st.after) || pcr.Equal(st.before) {
				s.matched = true
			}
		}
	}
	s.unended = s.trailing > 0
	if s.unended && !newest {
		s.bad = fmt.Errorf("%s: ends within a batch", path)
	}
	return nil
}

var errTorn = errors.New("last line has no end")

// lineReader reads stored lines of bounded length.
type lineReader struct{ r *bufio.Reader }

func newLineReader(r io.Reader) *lineReader { return &lineReader{bufio.NewReaderSize(r, 64<<10)} }

// next returns a line without its newline and how many bytes it took; errTorn
// for a last line without a newline, io.EOF at the end. The line is the
// caller's only until the next call.
func (l *lineReader) next() ([]byte, int64, error) {
	var long []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if err == nil && long == nil {
			return part[:len(part)-1], int64(len(part)), nil
		}
		long = append(long, part...)
		switch {
		case err == nil:
			return long[:len(long)-1], int64(len(long)), nil
		case errors.Is(err, bufio.ErrBufferFull):
			if len(long) > MaxLine {
				return nil, int64(len(long)), fmt.Errorf("line is longer than %d bytes", MaxLine)
			}
		case errors.Is(err, io.EOF) && len(long) == 0:
			return nil, 0, io.EOF
		case errors.Is(err, io.EOF):
			return nil, int64(len(long)), errTorn
		default:
			return nil, 0, err
		}
	}
}
