package tree

import "testing"

// The values are those of the reference implementation's xxhsum -H0.
func TestXXH32(t *testing.T) {
	for in, want := range map[string]uint32{"": 0x02CC5D05, "a": 0x550D7456, "abc": 0x32D153FF, "abcdefghijklmnopqrstuvwxyz": 0x63A14D5F} {
		if got := xxh32([]byte(in), 0); got != want {
			t.Errorf("%q: %#x, wanted %#x", in, got, want)
		}
	}
}
