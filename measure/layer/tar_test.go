package layer_test

import (
	"archive/tar"
	"bytes"
	"testing"
	"time"
)

// entry is one tar entry; the zero fields are what most entries have.
type entry struct {
	typ    byte
	name   string
	link   string
	body   string
	mode   int64
	uid    int
	gid    int
	sec    int64
	major  int64
	minor  int64
	xattrs map[string]string
}

func file(name, body string) entry {
	return entry{typ: tar.TypeReg, name: name, body: body, mode: 0o644}
}
func dir(name string) entry         { return entry{typ: tar.TypeDir, name: name + "/", mode: 0o755} }
func symlink(name, to string) entry { return entry{typ: tar.TypeSymlink, name: name, link: to} }
func hardlink(name, to string) entry {
	return entry{typ: tar.TypeLink, name: name, link: to, mode: 0o644}
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := tar.Header{
			Typeflag: e.typ, Name: e.name, Linkname: e.link, Size: int64(len(e.body)), Mode: e.mode,
			Uid: e.uid, Gid: e.gid, ModTime: time.Unix(e.sec, 0), Devmajor: e.major, Devminor: e.minor, Format: tar.FormatPAX,
		}
		if e.typ == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: e.typ, Name: e.name, Format: tar.FormatPAX}
			e.xattrs = map[string]string{}
			h.PAXRecords = map[string]string{"comment": "x"}
		}
		for k, v := range e.xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
