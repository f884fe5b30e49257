package channel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
)

// receiver says of each frame whether it may come now, and what it means. It
// holds no connection, so that it can be tried with any sequence of frames.
type receiver struct {
	maxEvidence int64
	// hold asks whether n more bytes of evidence may be kept.
	hold func(n int64) error

	greeted bool
	open    bool
	ended   bool

	// asked is the last round the peer asked for, answered that for which our
	// evidence has begun to go out, accepted the last it took.
	asked, answered, accepted uint32
	// wanted is the round we asked for and have no evidence of yet; 0 is none.
	wanted uint32

	// coming is evidence that has begun to arrive.
	coming *proof

	// credit is how much more data the peer may send, grant how much more we
	// may.
	credit uint32
	grant  uint32
}

// event is what a frame amounts to; at most one field is set.
type event struct {
	hello    *hello
	request  *request
	proof    *proof
	accepted bool
	data     []byte
	granted  bool
	bye      bool
}

func (r *receiver) take(k kind, b []byte) (event, error) {
	if k == kindAlert {
		return event{}, decodeAlert(b)
	}
	switch {
	case r.ended:
		return event{}, malformed("%s after BYE", k)
	case r.greeted == (k == kindHello):
		return event{}, malformed("%s: HELLO comes first, and once", k)
	case !r.open && (k == kindData || k == kindWindow || k == kindBye):
		return event{}, malformed("%s before both sides have accepted", k)
	}
	switch k {
	case kindHello:
		h, err := decodeHello(b)
		if err != nil {
			return event{}, err
		}
		r.greeted, r.grant = true, h.window
		return event{hello: &h}, nil

	case kindRequest:
		q := decodeRequest(b)
		if q.round != r.asked+1 || r.accepted != r.asked {
			return event{}, malformed("REQUEST %d after %d, of which %d is accepted", q.round, r.asked, r.accepted)
		}
		r.asked = q.round
		return event{request: &q}, nil

	case kindEvidence:
		p := decodeProof(b)
		switch {
		case r.wanted == 0 || p.round != r.wanted || r.coming != nil:
			return event{}, malformed("EVIDENCE %d that nobody asked for", p.round)
		case p.size == 0 || int64(p.size) > r.maxEvidence:
			return event{}, malformed("EVIDENCE of %d bytes, wanted 1 to %d", p.size, r.maxEvidence)
		}
		r.coming = &p
		return event{}, nil

	case kindChunk:
		p := r.coming
		switch {
		case p == nil:
			return event{}, malformed("CHUNK outside of EVIDENCE")
		case len(b) > int(p.size)-len(p.evidence):
			return event{}, malformed("CHUNK of %d bytes, %d are missing", len(b), int(p.size)-len(p.evidence))
		}
		if err := r.hold(int64(len(b))); err != nil {
			return event{}, err
		}
		p.evidence = append(p.evidence, b...)
		if len(p.evidence) < int(p.size) {
			return event{}, nil
		}
		r.coming, r.wanted = nil, 0
		return event{proof: p}, nil

	case kindAccept:
		round := binary.BigEndian.Uint32(b)
		if round != r.answered || round != r.accepted+1 {
			return event{}, malformed("ACCEPT %d, wanted %d", round, r.accepted+1)
		}
		r.accepted = round
		return event{accepted: true}, nil

	case kindData:
		if uint32(len(b)) > r.credit {
			return event{}, malformed("DATA of %d bytes, the window is %d", len(b), r.credit)
		}
		r.credit -= uint32(len(b))
		return event{data: b}, nil

	case kindWindow:
		n := binary.BigEndian.Uint32(b)
		if n == 0 || n > math.MaxInt32 || r.grant > math.MaxInt32-n {
			return event{}, malformed("WINDOW of %d beside %d", n, r.grant)
		}
		r.grant += n
		return event{granted: true}, nil

	case kindBye:
		r.ended = true
		return event{bye: true}, nil
	}
	return event{}, malformed("%s is not expected", k)
}

// held is how many bytes of unfinished evidence the receiver keeps.
func (r *receiver) held() int64 {
	if r.coming == nil {
		return 0
	}
	return int64(len(r.coming.evidence))
}

// receive reads frames until the connection ends. It never writes: a peer that
// does not read is not to keep us from reading.
func (c *Conn) receive() {
	in := bufio.NewReaderSize(c.tls, maxPiece)
	buf := make([]byte, maxPiece)
	for {
		k, b, err := readFrame(in, buf)
		if err != nil {
			// A TLS connection cut between two records reads like one that
			// was closed: only BYE is an end.
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			c.fail(c.phaseNow(), err)
			c.shut()
			return
		}
		if done := c.dispatch(k, b); done {
			return
		}
	}
}

// dispatch does what a frame asks for; true ends the reading.
func (c *Conn) dispatch(k kind, b []byte) bool {
	c.mu.Lock()
	if c.err != nil {
		// Read on and forget, until the connection is closed.
		c.mu.Unlock()
		return false
	}
	e, err := c.in.take(k, b)
	// The channels have room: the receiver lets a second one come only after
	// the first was answered.
	switch {
	case err != nil:
	case e.hello != nil:
		c.hellos <- *e.hello
	case e.request != nil:
		c.requests <- *e.request
	case e.proof != nil:
		c.proofs <- *e.proof
	case e.accepted:
		if c.opensOnAccept {
			c.opensOnAccept = false
			c.openLocked()
		}
		wake(c.accepts)
	case len(e.data) > 0:
		c.pending.write(e.data)
		wake(c.readable)
	case e.granted:
		wake(c.writable)
	}
	c.mu.Unlock()
	switch {
	case err != nil:
		c.fail(c.phaseNow(), err)
		return true
	case e.bye:
		c.ended()
		return true
	}
	return false
}

// wake makes a waiter look again; one who is not waiting looks before it does.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
