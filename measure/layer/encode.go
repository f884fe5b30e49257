package layer

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
)

// Digest returns the digest of the layer: SHA-256 over the tag, the number of
// records and the SHA-256 of the encoded records. For a manifest of the tree
// form use TreeDigest; the tags keep the two apart.
func (m *Manifest) Digest() Digest { return sha256.Sum256(m.header(layerTag)) }

// TreeDigest returns the digest of a cumulative tree.
func (m *Manifest) TreeDigest() TreeDigest { return sha256.Sum256(m.header(treeTag)) }

func (m *Manifest) tag() string {
	if m.Tree {
		return treeTag
	}
	return layerTag
}

// header returns tag ‖ count ‖ H(records): the bytes a digest is taken of.
func (m *Manifest) header(tag string) []byte {
	h := sha256.New()
	var buf []byte
	for i := range m.Records {
		buf = m.Records[i].append(buf)
		if len(buf) >= 32<<10 {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	h.Write(buf)
	return joinHeader(tag, len(m.Records), h)
}

func joinHeader(tag string, count int, records hash.Hash) []byte {
	out := binary.BigEndian.AppendUint64([]byte(tag), uint64(count))
	return records.Sum(out)
}

// WriteTo writes the canonical encoding: the bytes that are hashed, header
// first, then the records. It implements io.WriterTo.
func (m *Manifest) WriteTo(w io.Writer) (int64, error) {
	b := bufio.NewWriterSize(w, 64<<10)
	n, err := b.Write(m.header(m.tag()))
	total := int64(n)
	var buf []byte
	for i := 0; err == nil && i < len(m.Records); i++ {
		buf = m.Records[i].append(buf[:0])
		n, err = b.Write(buf)
		total += int64(n)
	}
	if err == nil {
		err = b.Flush()
	}
	if err != nil {
		return total - int64(b.Buffered()), fmt.Errorf("layer manifest: %w", err)
	}
	return total, nil
}

// append adds r's encoding to b: the length of the rest in 32 bits, then the
// fields in fixed order, integers big-endian, byte strings behind their length.
func (r *Record) append(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = appendString16(b, r.Path)
	b = append(b, byte(r.Type), opaqueByte(r.Opaque))
	if !r.Type.bare() {
		b = r.appendAttributes(b)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

func (r *Record) appendAttributes(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint16(b, r.Mode)
	b = be.AppendUint32(b, r.UID)
	b = be.AppendUint32(b, r.GID)
	b = be.AppendUint64(b, uint64(r.MTime))
	switch r.Type {
	case Regular:
		b = be.AppendUint64(b, uint64(r.Size))
		b = append(b, r.Content[:]...)
	case Symlink:
		b = appendString16(b, r.Target)
	case Char, Block:
		b = be.AppendUint32(b, r.Major)
		b = be.AppendUint32(b, r.Minor)
	}
	b = be.AppendUint16(b, uint16(len(r.Xattrs)))
	for _, x := range r.Xattrs {
		b = appendString16(b, x.Name)
		b = be.AppendUint32(b, uint32(len(x.Value)))
		b = append(b, x.Value...)
	}
	return appendString16(b, r.Group)
}

func appendString16(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func opaqueByte(o bool) byte {
	if o {
		return 1
	}
	return 0
}
