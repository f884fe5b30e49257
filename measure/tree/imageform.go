package tree

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// imageForm checks that an image has the plain form that mkfs.erofs gives it, in
// which there is nothing that the kernel, or the kernel of another version, could
// understand in another way than the reader: fields that were reserved when one
// of them was written (the upper bits of a block address, a time), features that
// hide attributes, attributes that are there twice, directories whose order a
// search would miss entries by. Its source is fs/erofs/erofs_fs.h of Linux 6.18.
type imageForm struct {
	f         io.ReaderAt
	size      int64
	block     int64
	meta      int64 // where inodes are counted from
	shared    int64 // where shared attributes are counted from
	buf       []byte
	attribute map[string]bool
	filters   bool // attributes have filters
	filter    uint32
}

const (
	superblockAt   = 1024
	inodeSlot      = 32
	extendedInode  = 64
	layoutPlain    = 0
	layoutInline   = 2
	layoutChunks   = 4
	filtersCompat  = 0x4
	knownCompat    = filtersCompat | 0x3 // and a checksum; times are modification times
	knownIncompat  = 0x4                 // files in chunks
	longPrefix     = 0x80
	filterSeed     = 0x25BBE08F
	direntSize     = 12
	maxDirectory   = 1 << 30
	maxNameInImage = 255
)

func (r *imageReader) openForm(f io.ReaderAt, size int64) error {
	var sb [128]byte
	if _, err := f.ReadAt(sb[:], superblockAt); err != nil {
		return fmt.Errorf("%w: its superblock: %w", ErrImage, err)
	}
	le := binary.LittleEndian
	compat := le.Uint32(sb[8:])
	if compat&^knownCompat != 0 {
		return fmt.Errorf("%w: features %#x (compatible)", ErrImage, compat)
	}
	if incompat := le.Uint32(sb[80:]); incompat&^knownIncompat != 0 {
		return fmt.Errorf("%w: features %#x (incompatible)", ErrImage, incompat)
	}
	block := int64(1) << min(sb[12], 16)
	// The kernel reads the last block as a whole, and fails where a reader of
	// fewer bytes would not.
	if size%block != 0 {
		return fmt.Errorf("%w: its %d bytes are not whole blocks of %d", ErrImage, size, block)
	}
	r.form = &imageForm{f: f, size: size, block: block, meta: int64(le.Uint32(sb[40:])) * block, shared: int64(le.Uint32(sb[44:])) * block,
		filters: compat&filtersCompat != 0}
	return nil
}

// inode checks the inode of a number, and the entries of a directory.
func (m *imageForm) inode(nid int64, dir bool) error {
	at := m.meta + nid*inodeSlot
	head, err := m.read(at, inodeSlot)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	format, attributes := le.Uint16(head), int64(le.Uint16(head[2:]))
	layout, start := format>>1&7, le.Uint32(head[16:])
	if format>>4 != 0 || layout != layoutPlain && layout != layoutInline && (layout != layoutChunks || dir) {
		return fmt.Errorf("inode %d: format %#x", nid, format)
	}
	length, size := int64(inodeSlot), int64(le.Uint32(head[8:]))
	reserved := le.Uint32(head[12:])
	if format&1 != 0 {
		length, size = extendedInode, int64(le.Uint64(head[8:]))
		reserved = uint32(le.Uint16(head[6:]))
	}
	if reserved != 0 {
		return fmt.Errorf("inode %d: a reserved field is %#x", nid, reserved)
	}
	tail := at + length
	if attributes > 0 {
		n := 12 + (attributes-1)*4
		if err := m.attributes(tail, n); err != nil {
			return fmt.Errorf("inode %d: %w", nid, err)
		}
		tail += n
	}
	if !dir {
		return nil
	}
	if size > maxDirectory {
		return fmt.Errorf("inode %d: a directory of %d bytes", nid, size)
	}
	if err := m.directory(size, int64(start)*m.block, tail, layout == layoutInline); err != nil {
		return fmt.Errorf("directory inode %d: %w", nid, err)
	}
	return nil
}

func (m *imageForm) read(at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at+n > m.size {
		return nil, fmt.Errorf("%d bytes at %d are not in the image", n, at)
	}
	if int64(cap(m.buf)) < n {
		m.buf = make([]byte, n)
	}
	b := m.buf[:n]
	_, err := m.f.ReadAt(b, at)
	return b, err
}

// attributes wants no attribute twice, of which the kernel takes the first, and
// none that the filter, where the kernel looks first, says is not there.
func (m *imageForm) attributes(at, n int64) error {
	b, err := m.read(at, n)
	if err != nil {
		return err
	}
	b = bytes.Clone(b)
	shared := int(b[4])
	if 12+4*shared > len(b) {
		return fmt.Errorf("%d shared attributes in %d bytes", shared, n)
	}
	m.attribute, m.filter = map[string]bool{}, 0
	if m.filters {
		m.filter = binary.LittleEndian.Uint32(b)
	}
	for i := range shared {
		id := binary.LittleEndian.Uint32(b[12+4*i:])
		entry, err := m.read(m.shared+int64(id)*4, 4)
		if err != nil {
			return err
		}
		if entry, err = m.read(m.shared+int64(id)*4, 4+int64(entry[0])); err != nil {
			return err
		}
		if err := m.once(entry); err != nil {
			return err
		}
	}
	for b = b[12+4*shared:]; len(b) > 0; {
		if len(b) < 4 {
			return fmt.Errorf("%d bytes behind the attributes", len(b))
		}
		length := 4 + int(b[0]) + int(binary.LittleEndian.Uint16(b[2:]))
		length = (length + 3) &^ 3
		if length > len(b) {
			return fmt.Errorf("an attribute of %d bytes in %d", length, len(b))
		}
		if err := m.once(b[:4+int(b[0])]); err != nil {
			return err
		}
		b = b[length:]
	}
	return nil
}

func (m *imageForm) once(entry []byte) error {
	if entry[1]&longPrefix != 0 {
		return fmt.Errorf("attribute prefix %#x", entry[1])
	}
	key := string(entry[1]) + string(entry[4:])
	if m.attribute[key] {
		return fmt.Errorf("attribute %q twice", entry[4:])
	}
	m.attribute[key] = true
	if bit := xxh32(entry[4:], filterSeed+uint32(entry[1])) & 31; m.filter&(1<<bit) != 0 {
		return fmt.Errorf("attribute %q is hidden by the filter %#x", entry[4:], m.filter)
	}
	return nil
}

// directory wants the names of all blocks in ascending order.
func (m *imageForm) directory(size, start, tail int64, inline bool) error {
	last := []byte(nil)
	for off := int64(0); off < size; off += m.block {
		n, at := min(m.block, size-off), start+off
		if inline && size-off <= m.block && size%m.block != 0 {
			at = tail
		}
		b, err := m.read(at, n)
		if err != nil {
			return err
		}
		if last, err = ascending(b, last); err != nil {
			return err
		}
	}
	return nil
}

func ascending(b, last []byte) ([]byte, error) {
	if len(b) < direntSize {
		return nil, fmt.Errorf("a block of %d bytes", len(b))
	}
	nameOff := func(i int) int { return int(binary.LittleEndian.Uint16(b[i*direntSize+8:])) }
	count := nameOff(0) / direntSize
	if count == 0 || nameOff(0)%direntSize != 0 || nameOff(0) > len(b) {
		return nil, fmt.Errorf("names begin at %d", nameOff(0))
	}
	for i := range count {
		from, to := nameOff(i), len(b)
		if i+1 < count {
			to = nameOff(i + 1)
		}
		if from > to || to > len(b) {
			return nil, fmt.Errorf("a name from %d to %d of %d", from, to, len(b))
		}
		name := b[from:to]
		if i+1 == count {
			name, _, _ = bytes.Cut(name, []byte{0})
		}
		if len(name) == 0 || len(name) > maxNameInImage || bytes.IndexByte(name, 0) >= 0 {
			return nil, fmt.Errorf("name %.300q", name)
		}
		if last != nil && bytes.Compare(last, name) >= 0 {
			return nil, fmt.Errorf("name %.300q is not in order", name)
		}
		last = bytes.Clone(name)
	}
	return last, nil
}
