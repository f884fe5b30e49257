package reference

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// containerd unpacks zstd whose first frame is one to be passed over; taking it
// for a plain tar would call an honest layer corrupt.
func TestDecompressSkippableFirst(t *testing.T) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte("layer"), 1000)
	packed := w.EncodeAll(plain, nil)
	for _, kind := range []byte{0x50, 0x5f} {
		blob := append([]byte{kind, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, packed...)
		r, err := Decompress(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("frame %#x: %d bytes, %v", kind, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, no := range [][]byte{nil, {0x50, 0x2a, 0x4d, 0x18}, {0x60, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, []byte("./etc/passwd")} {
		if IsZstd(no) {
			t.Errorf("%x is taken for zstd", no)
		}
	}
}
