package layer_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealift/sealift/measure/layer"
)

// Every field of a record, changed alone, is found under its kind, at its path,
// and moves the digest.
func TestCompareFindsEveryField(t *testing.T) {
	base := func() *layer.Manifest { return everything(t) }
	at := func(m *layer.Manifest, path string) *layer.Record {
		r := m.Lookup(path)
		if r == nil {
			t.Fatalf("no %s", path)
		}
		return r
	}
	for _, c := range []struct {
		path, kind string
		change     func(m *layer.Manifest, r *layer.Record)
	}{
		{"d/b", layer.KindDevice, func(_ *layer.Manifest, r *layer.Record) { r.Minor = 1 }},
		{"d/c", layer.KindMode, func(_ *layer.Manifest, r *layer.Record) { r.Mode = 0o600 }},
		{"d/f", layer.KindContent, func(_ *layer.Manifest, r *layer.Record) { r.Content[31]++ }},
		{"d/f", layer.KindSize, func(_ *layer.Manifest, r *layer.Record) { r.Size++ }},
		{"d/f", layer.KindMTime, func(_ *layer.Manifest, r *layer.Record) { r.MTime++ }},
		{"d/f", layer.KindOwner, func(_ *layer.Manifest, r *layer.Record) { r.UID++ }},
		{"d/f", layer.KindOwner, func(_ *layer.Manifest, r *layer.Record) { r.GID++ }},
		{"d/f", layer.KindHardlink, func(_ *layer.Manifest, r *layer.Record) { r.Group = "" }},
		{"d/f", layer.KindXattr, func(_ *layer.Manifest, r *layer.Record) { r.Xattrs = []layer.Xattr{{Name: "user.a"}} }},
		{"d/l", layer.KindLink, func(_ *layer.Manifest, r *layer.Record) { r.Target = "g" }},
		{"d", layer.KindOpaque, func(_ *layer.Manifest, r *layer.Record) { r.Opaque = false }},
		{"d/p", layer.KindType, func(_ *layer.Manifest, r *layer.Record) { r.Type = layer.Socket }},
		{"d/p", layer.KindWhiteout, func(_ *layer.Manifest, r *layer.Record) { *r = layer.Record{Path: r.Path, Type: layer.Whiteout} }},
		{"d/w", layer.KindWhiteout, func(m *layer.Manifest, r *layer.Record) { drop(m, r.Path) }},
		{"d/p", layer.KindMissing, func(m *layer.Manifest, r *layer.Record) { drop(m, r.Path) }},
		{"new", layer.KindAdded, func(m *layer.Manifest, _ *layer.Record) {
			m.Records = append(m.Records, layer.Record{Path: "new", Type: layer.FIFO})
			m.Sort()
		}},
		{"neww", layer.KindWhiteout, func(m *layer.Manifest, _ *layer.Record) {
			m.Records = append(m.Records, layer.Record{Path: "neww", Type: layer.Whiteout})
			m.Sort()
		}},
		{"", layer.KindOpaque, func(m *layer.Manifest, _ *layer.Record) {
			m.Records = append(m.Records, layer.Record{Type: layer.Implied, Opaque: true})
			m.Sort()
		}},
	} {
		want, got := base(), base()
		var r *layer.Record
		if !strings.HasPrefix(c.path, "new") && c.path != "" {
			r = at(got, c.path)
		}
		c.change(got, r)
		diffs := layer.Compare(want, got)
		if len(diffs) != 1 || diffs[0].Kind != c.kind || diffs[0].Path != c.path {
			t.Errorf("%s of %q: found %v", c.kind, c.path, diffs)
		}
		if want.Digest() == got.Digest() {
			t.Errorf("%s of %q: the digest stayed", c.kind, c.path)
		}
		if back := layer.Compare(got, want); len(back) != 1 {
			t.Errorf("%s of %q, the other way: %v", c.kind, c.path, back)
		}
	}
	if diffs := layer.Compare(base(), base()); len(diffs) != 0 {
		t.Errorf("the control: %v", diffs)
	}
}

func drop(m *layer.Manifest, path string) {
	for i := range m.Records {
		if m.Records[i].Path == path {
			m.Records = append(m.Records[:i], m.Records[i+1:]...)
			return
		}
	}
}

// On disk an implied directory is a directory like any other.
func TestCompareImplied(t *testing.T) {
	want := fromTar(t, file("d/f", ""))
	got := fromTar(t, dir("d"), file("d/f", ""))
	if diffs := layer.Compare(want, got); len(diffs) != 0 {
		t.Errorf("implied wanted, directory found: %v", diffs)
	}
	if diffs := layer.Compare(got, want); len(diffs) != 1 || diffs[0].Kind != layer.KindType {
		t.Errorf("directory wanted, implied found: %v", diffs)
	}
}

func TestCheckImplied(t *testing.T) {
	top := fromTar(t, file("d/f", ""))
	lower := fromTar(t, entry{typ: '5', name: "real/", mode: 0o700, uid: 3}, symlink("d", "real"))
	for _, c := range []struct {
		mode uint16
		uid  uint32
		ok   bool
	}{{0o755, 0, true}, {0o700, 3, true}, {0o777, 0, false}, {0o755, 3, false}, {0o4755, 0, false}} {
		found := layer.Found{Manifest: top, Implied: []layer.Record{{Path: "d", Type: layer.Dir, Mode: c.mode, UID: c.uid}}}
		diffs := layer.CheckImplied(found, []layer.Found{{Manifest: fromTar(t)}, {Manifest: lower}})
		if ok := len(diffs) == 0; ok != c.ok {
			t.Errorf("%#o %d: %v", c.mode, c.uid, diffs)
		}
		for _, d := range diffs {
			if d.Kind != layer.KindImplied || d.Path != "d" || !strings.Contains(d.Wanted, "0700 3:0") {
				t.Error(fmt.Sprint(d))
			}
		}
	}
	// The packer of images makes them 0777, and nothing else of it is let through.
	for _, c := range []struct {
		dir layer.Record
		ok  bool
	}{{layer.Record{Mode: 0o777}, true}, {layer.Record{Mode: 0o1777}, false}, {layer.Record{Mode: 0o777, UID: 1}, false},
		{layer.Record{Mode: 0o777, Xattrs: []layer.Xattr{{Name: "user.a", Value: "b"}}}, false}} {
		c.dir.Path, c.dir.Type = "d", layer.Dir
		found := layer.Found{Manifest: top, Implied: []layer.Record{c.dir}, Image: true}
		if diffs := layer.CheckImplied(found, []layer.Found{{Manifest: lower, Image: true}}); len(diffs) == 0 != c.ok {
			t.Errorf("in an image, %+v: %v", c.dir, diffs)
		}
	}
	// What a whiteout or a file hides is not copied.
	hidden := layer.Found{Manifest: top, Implied: []layer.Record{{Path: "d", Type: layer.Dir, Mode: 0o700, UID: 3}}}
	if diffs := layer.CheckImplied(hidden, []layer.Found{{Manifest: fromTar(t, file(".wh.d", ""))}, {Manifest: lower}}); len(diffs) != 1 {
		t.Errorf("behind a whiteout: %v", diffs)
	}
}
