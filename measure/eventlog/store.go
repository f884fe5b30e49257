package eventlog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Layout of the log's directory:
//
//	lock                        held while a process has the log
//	head                        where the log was at the last sync (headBody)
//	epochs/NUMBER-ID/NNNNNN.log the segments of one epoch, in order
//	epochs/NUMBER-ID/tail-SEQ-X bytes that were written and never extended
const (
	lockName   = "lock"
	headName   = "head"
	epochsName = "epochs"
	segmentExt = ".log"
	tailPrefix = "tail-"
)

// syncDir makes the directory's entries durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// replaceFile puts content at path so that a crash leaves the old or the new.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// epochDir is one epoch's directory as its name tells it.
type epochDir struct {
	path   string
	number uint64
}

// listEpochs lists the epochs by number, ascending.
func listEpochs(root string) ([]epochDir, error) {
	entries, err := os.ReadDir(filepath.Join(root, epochsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []epochDir
	for _, e := range entries {
		number, _, ok := strings.Cut(e.Name(), "-")
		n, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || !e.IsDir() {
			continue
		}
		out = append(out, epochDir{filepath.Join(root, epochsName, e.Name()), n})
	}
	slices.SortFunc(out, func(a, b epochDir) int {
		if a.number != b.number {
			return int(int64(a.number - b.number))
		}
		return strings.Compare(a.path, b.path)
	})
	return out, nil
}

// listSegments lists an epoch's segments in order. A gap in their numbers is
// an error: a segment is missing.
func listSegments(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == segmentExt {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	for i, path := range out { // ReadDir sorts by name
		if filepath.Base(path) != segmentName(i+1) {
			return nil, fmt.Errorf("epoch %s: segment %s is missing", filepath.Base(dir), segmentName(i+1))
		}
	}
	return out, nil
}

func segmentName(index int) string { return fmt.Sprintf("%06d%s", index, segmentExt) }

var errNoSpace = fmt.Errorf("no space left to record into: %w", unix.ENOSPC)

// store appends to the newest segment of an epoch.
type store struct {
	dir   string
	index int
	f     *os.File
	// size is the segment's length, allocated up to where blocks are ours.
	size, allocated int64
	// total is the length of the segments before this one.
	total int64
	// plain is set where the file system cannot set blocks aside; then a full
	// disk is met by the write itself and there is no reserve.
	plain bool
	// torn is set when a write went wrong and its beginning could not be cut
	// off again: nothing may follow it.
	torn bool
}

// createStore makes an epoch's directory with an empty first segment.
func createStore(root string, number uint64, id Hash) (*store, error) {
	epochs := filepath.Join(root, epochsName)
	dir := filepath.Join(epochs, fmt.Sprintf("%08d-%s", number, id.String()[:16]))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := syncDir(epochs); err != nil {
		return nil, err
	}
	s := &store{dir: dir}
	return s, s.next()
}

// openStore opens the newest segment for appending.
func openStore(dir string) (*store, error) {
	segments, err := listSegments(dir)
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir, index: len(segments)}
	for i, path := range segments {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if i < len(segments)-1 {
			s.total += info.Size()
		} else {
			s.size = info.Size()
		}
	}
	if len(segments) == 0 {
		return s, s.next()
	}
	s.f, err = os.OpenFile(segments[len(segments)-1], os.O_RDWR|os.O_APPEND, 0)
	return s, err
}

// next goes on to a new segment. The old one is complete on the disk first;
// after an error it is still the one in use.
func (s *store) next() error {
	f, err := os.OpenFile(filepath.Join(s.dir, segmentName(s.index+1)), os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = syncDir(s.dir)
	if err == nil && s.f != nil {
		err = errors.Join(s.f.Truncate(s.size), s.f.Sync())
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if s.f != nil {
		if err := s.f.Close(); err != nil {
			slog.Warn("event log: close", "file", s.f.Name(), "error", err)
		}
	}
	s.f, s.index, s.total = f, s.index+1, s.total+s.size
	s.size, s.allocated = 0, 0
	return nil
}

// allocationStep is how much is set aside at a time beyond the reserve.
const allocationStep = 256 << 10

// ensure sets blocks aside for n more bytes with reserve still free after them.
func (s *store) ensure(n, reserve int64) error {
	if s.plain || s.allocated >= s.size+n+reserve {
		return nil
	}
	for _, extra := range []int64{allocationStep, 0} {
		want := n + reserve + extra
		err := unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, s.size, want)
		switch {
		case err == nil:
			s.allocated = s.size + want
			return nil
		case errors.Is(err, unix.EOPNOTSUPP):
			s.plain = true
			return nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT):
			return fmt.Errorf("allocate %d bytes in %s: %w", want, s.f.Name(), err)
		}
	}
	return errNoSpace
}

// write appends one batch with one write. After an error the segment ends
// where it ended before, or the error says that it does not.
func (s *store) write(b []byte) error {
	if s.torn {
		if err := s.truncate(s.size); err != nil {
			return err
		}
	}
	n, err := s.f.Write(b)
	if err == nil {
		s.size += int64(n)
		return nil
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = errors.Join(errNoSpace, err)
	}
	s.torn = true
	return errors.Join(err, s.truncate(s.size))
}

// truncate cuts the segment to size. What was set aside may be lost by it.
func (s *store) truncate(size int64) error {
	if err := s.f.Truncate(size); err != nil {
		return err
	}
	s.size, s.allocated, s.torn = size, 0, false
	return nil
}

// cut takes everything from offset of the newest segment out of the log, into
// a file of its own, and says what it was. Twice is the same as once.
func (s *store) cut(epoch Hash, seq uint64, offset int64) (recoveredBody, error) {
	tail := make([]byte, s.size-offset)
	if _, err := s.f.ReadAt(tail, offset); err != nil {
		return recoveredBody{}, err
	}
	b := describeTail(epoch, seq, tail)
	if err := replaceFile(filepath.Join(s.dir, b.File), tail); err != nil {
		return b, err
	}
	return b, errors.Join(s.truncate(offset), s.f.Sync())
}

func describeTail(epoch Hash, seq uint64, tail []byte) recoveredBody {
	b := recoveredBody{Epoch: epoch, SHA256: sha256.Sum256(tail), Bytes: uint64(len(tail))}
	b.File = fmt.Sprintf("%s%d-%s", tailPrefix, seq, b.SHA256.String()[:16])
	b.Lines = uint64(bytes.Count(tail, []byte{'\n'}))
	if len(tail) > 0 && tail[len(tail)-1] != '\n' {
		b.Lines++
	}
	return b
}

// tails describes the tails an epoch's directory keeps.
func tails(dir string, epoch Hash) ([]recoveredBody, error) {
	paths, err := filepath.Glob(filepath.Join(dir, tailPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var out []recoveredBody
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		b := describeTail(epoch, 0, content)
		b.File = filepath.Base(path)
		out = append(out, b)
	}
	return out, nil
}

// close keeps what is set aside: a log that is opened again on a full disk has
// its reserve still.
func (s *store) close() error {
	if s.f == nil {
		return nil
	}
	return errors.Join(s.f.Sync(), s.f.Close())
}

// retire closes the store for good and gives back what is set aside.
func (s *store) retire() error {
	if s.f == nil {
		return nil
	}
	return errors.Join(s.f.Truncate(s.size), s.close())
}
