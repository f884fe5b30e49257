package channel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// kind is a frame's first byte. docs/attestation.md lists them.
type kind byte

const (
	kindHello    kind = 1
	kindRequest  kind = 2
	kindEvidence kind = 3
	kindChunk    kind = 4
	kindAccept   kind = 5
	kindData     kind = 6
	kindWindow   kind = 7
	kindBye      kind = 8
	kindAlert    kind = 9
)

func (k kind) String() string {
	names := [...]string{"0", "HELLO", "REQUEST", "EVIDENCE", "CHUNK", "ACCEPT", "DATA", "WINDOW", "BYE", "ALERT"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprint(byte(k))
}

// A frame is a kind, a length of three bytes (big endian), and that many bytes.
const (
	headerSize = 4
	// maxPiece bounds the payload of DATA and CHUNK: a proof waits behind at
	// most one of them.
	maxPiece = 32 << 10

	nonceSize   = 32
	maxAKName   = 2 + 64
	maxText     = 512
	requestSize = 4 + nonceSize + 32 + 8
	proofSize   = 4 + nonceSize + 4
)

// payloadBounds are the least and the most a frame of each kind may carry.
func payloadBounds(k kind) (least, most int, ok bool) {
	switch k {
	case kindHello:
		return 4 + 2, 4 + 1 + maxAKName, true
	case kindRequest:
		return requestSize, requestSize, true
	case kindEvidence:
		return proofSize, proofSize, true
	case kindChunk, kindData:
		return 1, maxPiece, true
	case kindAccept, kindWindow:
		return 4, 4, true
	case kindBye:
		return 0, 0, true
	case kindAlert:
		return 1, 1 + maxText, true
	}
	return 0, 0, false
}

// protocolError is a peer that does not speak the protocol.
type protocolError struct{ reason string }

func (e *protocolError) Error() string { return e.reason }

func malformed(format string, args ...any) error {
	return &protocolError{fmt.Sprintf(format, args...)}
}

// readFrame reads one frame; its payload lies in buf, which holds maxPiece
// bytes, until the next call. The error is io.EOF only where a frame could
// have begun.
func readFrame(r *bufio.Reader, buf []byte) (kind, []byte, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:1]); err != nil {
		return 0, nil, err
	}
	k := kind(h[0])
	least, most, ok := payloadBounds(k)
	if !ok {
		return 0, nil, malformed("frame of unknown kind %d", h[0])
	}
	if _, err := io.ReadFull(r, h[1:]); err != nil {
		return 0, nil, torn(err)
	}
	size := int(h[1])<<16 | int(h[2])<<8 | int(h[3])
	if size < least || size > most {
		return 0, nil, malformed("%s frame of %d bytes, wanted %d to %d", k, size, least, most)
	}
	payload := buf[:size]
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, torn(err)
	}
	return k, payload, nil
}

func torn(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendFrame appends one frame of parts to b.
func appendFrame(b []byte, k kind, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b = append(b, byte(k), byte(size>>16), byte(size>>8), byte(size))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// hello is a side's first frame. The AK's name is a claim until evidence has
// shown it; it tells which checkpoint to ask from.
type hello struct {
	window uint32
	akName []byte
}

func (h hello) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, h.window)
	b = append(b, byte(len(h.akName)))
	return append(b, h.akName...)
}

func decodeHello(b []byte) (hello, error) {
	h := hello{window: binary.BigEndian.Uint32(b)}
	if n := int(b[4]); n == 0 || n != len(b)-5 {
		return hello{}, malformed("HELLO: AK name of %d bytes in %d", n, len(b)-5)
	}
	if h.window < minWindow || h.window > maxWindow {
		return hello{}, malformed("HELLO: window of %d bytes, wanted %d to %d", h.window, minWindow, maxWindow)
	}
	h.akName = append([]byte(nil), b[5:]...)
	return h, nil
}

// request asks for a proof.
type request struct {
	round uint32
	nonce [nonceSize]byte
	from  Place
}

func (q request) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, q.round)
	b = append(b, q.nonce[:]...)
	b = append(b, q.from.Epoch[:]...)
	return binary.BigEndian.AppendUint64(b, q.from.Seq)
}

func decodeRequest(b []byte) request {
	var q request
	q.round = binary.BigEndian.Uint32(b)
	b = b[4:]
	copy(q.nonce[:], b)
	copy(q.from.Epoch[:], b[nonceSize:])
	q.from.Seq = binary.BigEndian.Uint64(b[nonceSize+32:])
	return q
}

// proof announces evidence; its bytes follow in CHUNK frames.
type proof struct {
	round    uint32
	nonce    [nonceSize]byte
	size     uint32
	evidence []byte
}

func (p proof) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, p.round)
	b = append(b, p.nonce[:]...)
	return binary.BigEndian.AppendUint32(b, p.size)
}

func decodeProof(b []byte) proof {
	p := proof{round: binary.BigEndian.Uint32(b), size: binary.BigEndian.Uint32(b[4+nonceSize:])}
	copy(p.nonce[:], b[4:])
	return p
}
