package cursor

import (
	"errors"
	"math"
	"testing"
)

func TestNeverPastTheEnd(t *testing.T) {
	for _, n := range []int{-1, 4, math.MaxInt, math.MinInt} {
		c := Over([]byte{1, 2, 3})
		if b, err := c.Take(n); !errors.Is(err, ErrShort) || c.At != 0 {
			t.Errorf("took %d of 3: %x, %v, at %d", n, b, err, c.At)
		}
	}
	c := Over([]byte{1, 2, 3})
	if _, err := c.Uint32(); !errors.Is(err, ErrShort) {
		t.Errorf("a number of four bytes out of 3: %v", err)
	}
	if v, err := c.Uint16(); err != nil || v != 0x0201 || c.End() {
		t.Errorf("%#x, %v", v, err)
	}
	if b, err := c.Take(1); err != nil || cap(b) != 1 || !c.End() {
		t.Errorf("%x with room for %d, %v", b, cap(b), err)
	}
}

func TestSized(t *testing.T) {
	for _, c := range []struct {
		in    []byte
		short bool
		ok    bool
	}{
		{[]byte{2, 0, 0, 0, 7, 7}, false, true},
		{[]byte{0, 0, 0, 0}, false, true},
		{[]byte{3, 0, 0, 0, 7, 7}, true, false},
		{[]byte{2, 0, 0}, true, false},
		{[]byte{4, 0, 0, 0, 7, 7, 7, 7}, false, false},
		{[]byte{0xff, 0xff, 0xff, 0xff, 7}, false, false},
	} {
		b, err := Over(c.in).Sized(3)
		if (err == nil) != c.ok || errors.Is(err, ErrShort) != c.short || c.ok && len(b) != int(c.in[0]) {
			t.Errorf("%x: %x, %v", c.in, b, err)
		}
	}
}
