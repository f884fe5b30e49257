package channel

// Windows are how many bytes of data one side may have sent that the other's
// application has not read.
const (
	minWindow     = maxPiece
	maxWindow     = 16 << 20
	defaultWindow = 1 << 20
)

// pending is received data that the application has not read: a ring that
// grows as needed; the window bounds it.
type pending struct {
	ring  []byte
	start int
	size  int
}

func (p *pending) write(b []byte) {
	if len(b) == 0 {
		return
	}
	if p.size+len(b) > len(p.ring) {
		grown := make([]byte, max(2*len(p.ring), p.size+len(b), 4096))
		p.peek(grown)
		p.ring, p.start = grown, 0
	}
	at := (p.start + p.size) % len(p.ring)
	n := copy(p.ring[at:], b)
	copy(p.ring, b[n:])
	p.size += len(b)
}

// peek copies from the start without taking.
func (p *pending) peek(b []byte) int {
	if p.size == 0 {
		return 0
	}
	b = b[:min(len(b), p.size)]
	n := copy(b, p.ring[p.start:])
	copy(b[n:], p.ring)
	return len(b)
}

func (p *pending) read(b []byte) int {
	n := p.peek(b)
	if n > 0 {
		p.start = (p.start + n) % len(p.ring)
		p.size -= n
	}
	if p.size == 0 {
		p.start = 0
	}
	return n
}

// clear forgets what was not read.
func (p *pending) clear() { *p = pending{} }
