package channel

import (
	"bufio"
	"errors"
	"net"
	"testing"
	"time"
)

// stranger is somebody who speaks the protocol by hand: TLS by the book, then
// any frame it likes.
type stranger struct {
	t        testing.TB
	net      net.Conn
	in       *bufio.Reader
	buf      []byte
	spki     []byte
	peer     []byte
	exporter []byte
}

// meet makes the TLS handshake with a key of the stranger's own.
func meet(t testing.TB, raw net.Conn, asServer bool) *stranger {
	t.Helper()
	e := newWorld().host(t, "stranger").endpoint(t, nil)
	c, peer, exporter, err := e.secure(t.Context(), raw, asServer)
	if err != nil {
		t.Fatalf("stranger's TLS: %v", err)
	}
	return &stranger{t: t, net: c, in: bufio.NewReader(c), buf: make([]byte, maxPiece), spki: e.spki, peer: peer, exporter: exporter}
}

func (s *stranger) send(k kind, parts ...[]byte) {
	s.t.Helper()
	if _, err := s.net.Write(appendFrame(nil, k, parts...)); err != nil {
		s.t.Fatalf("stranger's %s: %v", k, err)
	}
}

// try sends what the other side may already refuse to hear.
func (s *stranger) try(k kind, parts ...[]byte) error {
	_, err := s.net.Write(appendFrame(nil, k, parts...))
	return err
}

func (s *stranger) next() (kind, []byte, error) {
	if err := s.net.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, nil, err
	}
	return readFrame(s.in, s.buf)
}

func (s *stranger) expect(k kind) []byte {
	s.t.Helper()
	got, b, err := s.next()
	if err != nil || got != k {
		s.t.Fatalf("stranger got %s %q, %v; wanted %s", got, b, err, k)
	}
	return append([]byte(nil), b...)
}

// refused reads until the other side gives up, and says what it said.
func (s *stranger) refused() *alertError {
	s.t.Helper()
	for {
		k, b, err := s.next()
		var n net.Error
		switch {
		case errors.As(err, &n) && n.Timeout():
			s.t.Fatal("stranger is still listened to")
		case err != nil:
			return &alertError{}
		case k == kindAlert:
			return decodeAlert(b)
		case k == kindData:
			s.t.Fatalf("stranger got %d bytes of the application", len(b))
		}
	}
}

func (s *stranger) hello(akName []byte) {
	s.t.Helper()
	s.send(kindHello, hello{window: defaultWindow, akName: akName}.encode())
}

// evidence reads a whole proof.
func (s *stranger) evidence() proof {
	s.t.Helper()
	p := decodeProof(s.expect(kindEvidence))
	for len(p.evidence) < int(p.size) {
		p.evidence = append(p.evidence, s.expect(kindChunk)...)
	}
	return p
}

func (s *stranger) give(p proof) {
	s.t.Helper()
	p.size = uint32(len(p.evidence))
	s.send(kindEvidence, p.encode())
	for b := p.evidence; len(b) > 0; {
		n := min(len(b), maxPiece)
		s.send(kindChunk, b[:n])
		b = b[n:]
	}
}

// between forwards every frame of two connections, and keeps what the
// application sent.
func between(a, b *stranger) (overheard chan []byte) {
	overheard = make(chan []byte, 100)
	pass := func(from, to *stranger) {
		for {
			k, payload, err := from.next()
			if err != nil {
				to.net.Close()
				return
			}
			if k == kindData {
				overheard <- append([]byte(nil), payload...)
			}
			if err := to.try(k, payload); err != nil {
				from.net.Close()
				return
			}
		}
	}
	go pass(a, b)
	go pass(b, a)
	return overheard
}
