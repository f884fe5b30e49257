package layer_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealift/sealift/measure/layer"
)

var update = flag.Bool("update", false, "write the golden files")

// vectors are the test vectors of docs/layer-digest.md: a tar each, its canonical
// encoding in hexadecimal and its digest.
var vectors = []struct {
	name    string
	entries []entry
}{
	{"empty", nil},
	{"root-entry-ignored", []entry{dir(".")}},
	{"one-file", []entry{{typ: '0', name: "hello", body: "hello\n", mode: 0o644, uid: 1000, gid: 100, sec: 1_700_000_000}}},
	{"all-types", []entry{
		dir("d"), file("d/f", "content"), symlink("d/l", "f"), hardlink("d/h", "d/f"),
		{typ: '3', name: "d/c", mode: 0o666, major: 1, minor: 3}, {typ: '4', name: "d/b", mode: 0o660, major: 8, minor: 0},
		{typ: '6', name: "d/p", mode: 0o600}, file("d/.wh.w", ""), file("d/.wh..wh..opq", ""), file("i/x", ""),
	}},
	{"xattrs", []entry{{typ: '0', name: "ping", mode: 0o755, xattrs: map[string]string{
		"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"user.note":           "kept", "security.selinux": "ignored", "trusted.other": "dropped",
	}}}},
	{"raw-bytes", []entry{file("\xff\xfe", "a"), file("é", "b"), file("a-b", "c"), file("a/b", "d"), file("a.b", "e")}},
	{"symlinked-parent", []entry{dir("b"), symlink("a", "b"), file("a/f", "lands in b")}},
	{"hard-link-rewrites-inode", []entry{
		{typ: '0', name: "f", body: "x", mode: 0o4755, uid: 1, gid: 1, sec: 5},
		{typ: '1', name: "g", link: "f", mode: 0o600, uid: 2, gid: 2, sec: 9},
	}},
	{"whiteout-then-file", []entry{file(".wh.p", ""), file("p", "stays")}},
	{"opaque-root", []entry{file(".wh..wh..opq", "")}},
	{"global-header-removes", []entry{file("x", "gone"), {typ: 'g', name: "x"}}},
	{"times", []entry{
		{typ: '0', name: "before", sec: -1}, {typ: '0', name: "last", sec: 9223372036}, {typ: '0', name: "after", sec: 9223372037},
	}},
}

func TestGolden(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			m, err := layer.FromTar(bytes.NewReader(makeTar(t, v.entries...)))
			if err != nil {
				t.Fatal(err)
			}
			var enc bytes.Buffer
			if _, err := m.WriteTo(&enc); err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("%s\n%s", m.Digest(), hexLines(enc.Bytes()))
			golden := filepath.Join("testdata", v.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func hexLines(b []byte) string {
	var out string
	for len(b) > 0 {
		n := min(len(b), 32)
		out += hex.EncodeToString(b[:n]) + "\n"
		b = b[n:]
	}
	return out
}
