// Package cursor walks over foreign bytes, little-endian ones, and never past
// their end.
package cursor

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrShort says that the bytes end before what is asked for.
var ErrShort = errors.New("cut off")

// Cursor is at byte At of what it was made over.
type Cursor struct {
	b  []byte
	At int
}

// Over begins at the first byte of b.
func Over(b []byte) *Cursor { return &Cursor{b: b} }

// End says that nothing is left.
func (c *Cursor) End() bool { return c.At == len(c.b) }

// Take gives the next n bytes, without a copy; where there are fewer the cursor
// stays.
func (c *Cursor) Take(n int) ([]byte, error) {
	if n < 0 || n > len(c.b)-c.At {
		return nil, ErrShort
	}
	c.At += n
	return c.b[c.At-n : c.At : c.At], nil
}

// Uint16 takes a number.
func (c *Cursor) Uint16() (uint16, error) {
	b, err := c.Take(2)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(b), nil
}

// Uint32 takes a number.
func (c *Cursor) Uint32() (uint32, error) {
	b, err := c.Take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// Sized takes a length of four bytes, which may be max at the most, and so many
// bytes.
func (c *Cursor) Sized(max int) ([]byte, error) {
	n, err := c.Uint32()
	if err != nil {
		return nil, err
	}
	if uint64(n) > uint64(max) {
		return nil, fmt.Errorf("%d bytes are more than %d", n, max)
	}
	return c.Take(int(n))
}
