package layer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/sealift/sealift/measure/layer"
)

func fromTar(t testing.TB, entries ...entry) *layer.Manifest {
	t.Helper()
	m, err := layer.FromTar(bytes.NewReader(makeTar(t, entries...)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func encode(t testing.TB, m *layer.Manifest) []byte {
	t.Helper()
	var buf bytes.Buffer
	n, err := m.WriteTo(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(buf.Len()) {
		t.Fatalf("WriteTo says %d bytes and wrote %d", n, buf.Len())
	}
	return buf.Bytes()
}

// everything is a manifest with every type of record.
func everything(t testing.TB) *layer.Manifest {
	for _, v := range vectors {
		if v.name == "all-types" {
			return fromTar(t, v.entries...)
		}
	}
	t.Fatal("no such vector")
	return nil
}

// The digest is SHA-256 of the first 56 bytes of the encoding: whoever has the
// file can check it with any tool.
func TestDigestIsOfHeader(t *testing.T) {
	m := everything(t)
	enc := encode(t, m)
	if got := layer.Digest(sha256.Sum256(enc[:56])); got != m.Digest() {
		t.Errorf("SHA-256 of the header is %s, the digest %s", got, m.Digest())
	}
	if n := binary.BigEndian.Uint64(enc[16:]); n != uint64(len(m.Records)) {
		t.Errorf("count %d, want %d", n, len(m.Records))
	}
	if got := sha256.Sum256(enc[56:]); !bytes.Equal(got[:], enc[24:56]) {
		t.Error("the header does not hold the records' SHA-256")
	}
}

func TestReadWhatWasWritten(t *testing.T) {
	for _, v := range vectors {
		m := fromTar(t, v.entries...)
		enc := encode(t, m)
		got, err := layer.Read(iotest.OneByteReader(bytes.NewReader(enc)))
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		if got.Digest() != m.Digest() || len(layer.Compare(m, got)) != 0 || !bytes.Equal(encode(t, got), enc) {
			t.Errorf("%s: read back differently", v.name)
		}
	}
}

// Every changed, missing or added byte is refused.
func TestReadRefusesAnyChange(t *testing.T) {
	enc := encode(t, everything(t))
	for i := range enc {
		for _, flip := range []byte{1, 0x80} {
			bad := slices.Clone(enc)
			bad[i] ^= flip
			if _, err := layer.Read(bytes.NewReader(bad)); !errors.Is(err, layer.ErrNotManifest) {
				t.Fatalf("byte %d flipped: %v", i, err)
			}
		}
		if _, err := layer.Read(bytes.NewReader(enc[:i])); !errors.Is(err, layer.ErrNotManifest) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := layer.Read(bytes.NewReader(append(enc, 0))); !errors.Is(err, layer.ErrNotManifest) {
		t.Errorf("one byte more: %v", err)
	}
}

// seal puts a right header before records: what is left to refuse is the
// records themselves.
func seal(tag string, count uint64, records []byte) []byte {
	h := sha256.Sum256(records)
	out := binary.BigEndian.AppendUint64([]byte(tag), count)
	return append(append(out, h[:]...), records...)
}

func TestReadRefusesWhatIsNotCanonical(t *testing.T) {
	regular := func(path string) layer.Record { return layer.Record{Path: path, Type: layer.Regular} }
	for name, m := range map[string]*layer.Manifest{
		"out of order":      {Records: []layer.Record{regular("b"), regular("a")}},
		"twice":             {Records: []layer.Record{regular("a"), regular("a")}},
		"no parent":         {Records: []layer.Record{regular("a/b")}},
		"file as parent":    {Records: []layer.Record{regular("a"), regular("a/b")}},
		"dot dot":           {Records: []layer.Record{regular("..")}},
		"inner dot dot":     {Records: []layer.Record{{Path: "a", Type: layer.Dir}, regular("a/..")}},
		"absolute":          {Records: []layer.Record{regular("/a")}},
		"NUL":               {Records: []layer.Record{regular("a\x00b")}},
		"empty file name":   {Records: []layer.Record{regular("")}},
		"root not opaque":   {Records: []layer.Record{{Type: layer.Implied}}},
		"opaque file":       {Records: []layer.Record{{Path: "a", Type: layer.Regular, Opaque: true}}},
		"mode":              {Records: []layer.Record{{Path: "a", Type: layer.Regular, Mode: 0o10000}}},
		"negative size":     {Records: []layer.Record{{Path: "a", Type: layer.Regular, Size: -1}}},
		"device zero":       {Records: []layer.Record{{Path: "a", Type: layer.Char}}},
		"device too large":  {Records: []layer.Record{{Path: "a", Type: layer.Block, Major: 4096}}},
		"no target":         {Records: []layer.Record{{Path: "a", Type: layer.Symlink, Mode: 0o777}}},
		"link mode":         {Records: []layer.Record{{Path: "a", Type: layer.Symlink, Target: "b"}}},
		"lonely group":      {Records: []layer.Record{{Path: "a", Type: layer.Regular, Group: "a"}}},
		"group not first":   {Records: []layer.Record{{Path: "a", Type: layer.Regular, Group: "b"}, {Path: "b", Type: layer.Regular, Group: "b"}}},
		"group disagrees":   {Records: []layer.Record{{Path: "a", Type: layer.Regular, Group: "a"}, {Path: "b", Type: layer.Regular, Group: "a", UID: 1}}},
		"group of dirs":     {Records: []layer.Record{{Path: "a", Type: layer.Dir, Group: "a"}, {Path: "b", Type: layer.Dir, Group: "a"}}},
		"other xattr":       {Records: []layer.Record{{Path: "a", Type: layer.Regular, Xattrs: []layer.Xattr{{Name: "trusted.a"}}}}},
		"xattrs unsorted":   {Records: []layer.Record{{Path: "a", Type: layer.Regular, Xattrs: []layer.Xattr{{Name: "user.b"}, {Name: "user.a"}}}}},
		"whiteout in tree":  {Tree: true, Records: []layer.Record{{Path: "a", Type: layer.Whiteout}}},
		"dir time in tree":  {Tree: true, Records: []layer.Record{{Path: "a", Type: layer.Dir, MTime: 1}}},
		"overlay user mark": {Records: []layer.Record{{Path: "a", Type: layer.Dir, Xattrs: []layer.Xattr{{Name: "user.overlay.opaque", Value: "y"}}}}},
	} {
		if _, err := layer.Read(bytes.NewReader(encode(t, m))); !errors.Is(err, layer.ErrNotManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, raw := range map[string][]byte{
		"other tag":         seal("sealift-layer-v2", 0, nil),
		"too many records":  seal("sealift-layer-v1", 1<<40, nil),
		"huge record":       seal("sealift-layer-v1", 1, []byte{0xff, 0xff, 0xff, 0xff}),
		"unknown type":      seal("sealift-layer-v1", 1, []byte{0, 0, 0, 5, 0, 1, 'a', '?', 0}),
		"opaque mark 2":     seal("sealift-layer-v1", 1, []byte{0, 0, 0, 5, 0, 1, 'a', 'i', 2}),
		"more in a record":  seal("sealift-layer-v1", 1, []byte{0, 0, 0, 6, 0, 1, 'a', 'i', 0, 0}),
		"field over record": seal("sealift-layer-v1", 1, []byte{0, 0, 0, 5, 0, 9, 'a', 'i', 0}),
	} {
		if _, err := layer.Read(bytes.NewReader(raw)); !errors.Is(err, layer.ErrNotManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := layer.Read(bytes.NewReader(seal("sealift-layer-v1", 1, []byte{0, 0, 0, 5, 0, 1, 'a', 'i', 0}))); err != nil {
		t.Errorf("the control, one implied directory: %v", err)
	}
}

func TestReadPassesOnTheReadersError(t *testing.T) {
	enc := encode(t, everything(t))
	broken := errors.New("cable pulled")
	_, err := layer.Read(io.MultiReader(bytes.NewReader(enc[:100]), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || errors.Is(err, layer.ErrNotManifest) {
		t.Errorf("got %v", err)
	}
}

func TestParseDigest(t *testing.T) {
	d := everything(t).Digest()
	if got, err := layer.ParseDigest(d.String()); err != nil || got != d {
		t.Errorf("%s, %v", got, err)
	}
	s := d.String()
	for _, bad := range []string{"", "sha256" + s[len("sealift-layer-v1"):], s[:len(s)-1], s + "0", s[:len(s)-1] + "G", s[:len(s)-2] + "AB", layer.TreeDigest(d).String()} {
		if _, err := layer.ParseDigest(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, v := range vectors {
		f.Add(encode(f, fromTar(f, v.entries...)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := layer.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		if !bytes.Equal(encode(t, m), data) {
			t.Error("accepted, but not the canonical encoding")
		}
	})
}

// FuzzSealedRecords gets past the header's hash, to the records.
func FuzzSealedRecords(f *testing.F) {
	for _, v := range vectors {
		m := fromTar(f, v.entries...)
		f.Add(uint64(len(m.Records)), encode(f, m)[56:])
	}
	f.Fuzz(func(t *testing.T, count uint64, records []byte) {
		data := seal("sealift-layer-v1", count, records)
		m, err := layer.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		if !bytes.Equal(encode(t, m), data) {
			t.Error("accepted, but not the canonical encoding")
		}
	})
}
