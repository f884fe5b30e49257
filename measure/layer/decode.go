package layer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxRecordSize is the largest encoding a record can have within the limits of
// its parts, rounded up: three paths and the attributes.
const maxRecordSize = 64<<10 + 4*MaxPath + 256 + maxXattrBytes

// maxXattrBytes bounds all attributes of one entry together. Linux file systems
// stop earlier: ext4 at a block, XFS and btrfs at XATTR_SIZE_MAX a list of names.
const maxXattrBytes = 1 << 20

// ErrNotManifest is wrapped by Read's errors for bytes that are no canonical
// manifest. Other errors are the reader's own.
var ErrNotManifest = errors.New("not a canonical layer manifest")

// Read reads what WriteTo wrote, to the end of r. It accepts exactly the
// canonical encoding of a valid manifest whose records hash to what its header
// says, and never holds more than a constant above what it has read; more than
// MaxSize bytes are refused.
func Read(r io.Reader) (*Manifest, error) {
	d := &decoder{r: bufio.NewReaderSize(io.LimitReader(r, MaxSize+1), 64<<10)}
	m, err := d.manifest()
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: it ends early", ErrNotManifest)
		}
		return nil, fmt.Errorf("layer manifest: %w", err)
	}
	return m, nil
}

type decoder struct {
	r    *bufio.Reader
	read int64
	buf  bytes.Buffer
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotManifest, fmt.Sprintf(format, args...))
}

func (d *decoder) manifest() (*Manifest, error) {
	m := &Manifest{}
	tag := make([]byte, len(treeTag))
	if _, err := io.ReadFull(d.r, tag); err != nil {
		return nil, err
	}
	switch {
	case string(tag) == treeTag:
		m.Tree = true
	case string(tag) == layerTag[:len(treeTag)]:
		last, err := d.r.ReadByte()
		if err != nil {
			return nil, err
		}
		if last != layerTag[len(treeTag)] {
			return nil, malformed("unknown version")
		}
	default:
		return nil, malformed("unknown tag %.20q", tag)
	}
	var head [8 + sha256.Size]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return nil, err
	}
	count := binary.BigEndian.Uint64(head[:])
	if count > MaxRecords {
		return nil, malformed("%d records: the limit is %d", count, MaxRecords)
	}
	d.read = int64(len(m.tag()) + len(head))

	h := sha256.New()
	for i := range count {
		body, err := d.body(h)
		if err != nil {
			return nil, err
		}
		rec, err := decodeRecord(body)
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", i, err)
		}
		m.Records = append(m.Records, rec)
	}
	if !bytes.Equal(h.Sum(nil), head[8:]) {
		return nil, malformed("the records do not hash to the header's value")
	}
	if _, err := d.r.ReadByte(); err == nil {
		return nil, malformed("bytes after the last record")
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, malformed("%v", err)
	}
	return m, nil
}

// body reads one length-prefixed record. The buffer grows with the bytes that
// arrive, never with the length that was claimed.
func (d *decoder) body(h io.Writer) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(d.r, size[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(size[:]))
	if n > maxRecordSize {
		return nil, malformed("a record of %d bytes: the limit is %d", n, maxRecordSize)
	}
	if d.read += 4 + n; d.read > MaxSize {
		return nil, malformed("more than %d bytes", MaxSize)
	}
	d.buf.Reset()
	if _, err := io.CopyN(&d.buf, d.r, n); err != nil {
		return nil, err
	}
	h.Write(size[:])
	h.Write(d.buf.Bytes())
	return d.buf.Bytes(), nil
}

func decodeRecord(body []byte) (Record, error) {
	c := cursor{b: body}
	r := Record{Path: c.string16(), Type: Type(c.uint8())}
	switch o := c.uint8(); o {
	case 0, 1:
		r.Opaque = o == 1
	default:
		return r, malformed("opaque mark %d", o)
	}
	if !r.Type.known() {
		return r, malformed("unknown type %d", byte(r.Type))
	}
	if !r.Type.bare() {
		c.attributes(&r)
	}
	if c.short {
		return r, malformed("a field reaches over the record's end")
	}
	if len(c.b) != 0 {
		return r, malformed("%d bytes after the record's last field", len(c.b))
	}
	return r, nil
}

// cursor takes fields off the front of b; after the first that does not fit it
// gives zeros and short is set.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) attributes(r *Record) {
	r.Mode = c.uint16()
	r.UID = c.uint32()
	r.GID = c.uint32()
	r.MTime = int64(c.uint64())
	switch r.Type {
	case Regular:
		r.Size = int64(c.uint64())
		copy(r.Content[:], c.take(len(r.Content)))
	case Symlink:
		r.Target = c.string16()
	case Char, Block:
		r.Major = c.uint32()
		r.Minor = c.uint32()
	}
	n := int(c.uint16())
	for i := 0; i < n && !c.short; i++ {
		r.Xattrs = append(r.Xattrs, Xattr{Name: c.string16(), Value: string(c.take(int(c.uint32())))})
	}
	r.Group = c.string16()
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.short = true
		c.b = nil
	}
	if c.short {
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) uint8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) string16() string { return string(c.take(int(c.uint16()))) }
