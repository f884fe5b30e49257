package layer

import (
	"errors"
	"slices"
	"testing"
)

func TestIDMap(t *testing.T) {
	m, err := ParseIDMap("10:2000:5,0:1000:10")
	if err != nil || m.String() != "0:1000:10,10:2000:5" {
		t.Fatalf("%s, %v", m, err)
	}
	for id, want := range map[uint32]uint32{0: 1000, 9: 1009, 10: 2000, 14: 2004} {
		if got, ok := m.Host(id); !ok || got != want {
			t.Errorf("%d is the host's %d, %v; want %d", id, got, ok, want)
		}
	}
	for _, id := range []uint32{15, 1000, 1<<32 - 1} {
		if got, ok := m.Host(id); ok {
			t.Errorf("%d is the host's %d, and is not mapped", id, got)
		}
	}
	for _, bad := range []string{"", "0:0", "0:0:1:1", "-1:0:1", "0:x:1", "0:0:4294967296", "1:4294967295:1", "4294967295:0:1",
		"0:0:10,5:100:10", "0:0:10,20:5:10", "0:0:1,"} {
		if m, err := ParseIDMap(bad); err == nil {
			t.Errorf("%q was read as %s", bad, m)
		}
	}
}

// What chown(2) takes away and what it leaves.
func TestChowned(t *testing.T) {
	capable := []Xattr{{XattrCapability, "x"}, {"user.label", "y"}}
	m := &Manifest{Records: []Record{
		{Path: "d", Type: Dir, Mode: 0o6755, Xattrs: capable},
		{Path: "f", Type: Regular, Mode: 0o6755, UID: 3, GID: 4, Xattrs: capable},
		{Path: "g", Type: Regular, Mode: 0o2644},
		{Path: "l", Type: Symlink, Mode: 0o777, Target: "f"},
		{Path: "s", Type: Regular, Mode: 0o5755},
		{Path: "w", Type: Whiteout},
	}}
	ids := IDMap{{Container: 0, Host: 100, Size: 10}}
	kept, err := m.Chowned(ids, ids, true)
	if err != nil {
		t.Fatal(err)
	}
	dropped, err := m.Chowned(ids, ids, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint16{0o6755, 0o755, 0o2644, 0o777, 0o1755, 0} {
		k, d, was := kept.Records[i], dropped.Records[i], m.Records[i]
		if k.Mode != was.Mode || d.Mode != want {
			t.Errorf("%s: mode %#o kept and %#o dropped, want %#o and %#o", was.Path, k.Mode, d.Mode, was.Mode, want)
		}
		if was.Type != Whiteout && (k.UID != was.UID+100 || k.GID != was.GID+100) {
			t.Errorf("%s: owner %d:%d", was.Path, k.UID, k.GID)
		}
	}
	if !slices.Equal(kept.Records[0].Xattrs, capable) || len(kept.Records[1].Xattrs) != 1 || len(m.Records[1].Xattrs) != 2 {
		t.Errorf("attributes: directory %v, file %v, before %v", kept.Records[0].Xattrs, kept.Records[1].Xattrs, m.Records[1].Xattrs)
	}
	if s := kept.Special(); s == nil || s.Path != "f" {
		t.Errorf("special: %v", s)
	}
	if s := dropped.Special(); s != nil {
		t.Errorf("special, though dropped: %v", s)
	}
	var unmapped *UnmappedError
	if _, err := m.Chowned(ids[:0], ids, true); !errors.As(err, &unmapped) || unmapped.Path != "d" {
		t.Errorf("an owner without a place: %v", err)
	}
}

// A directory's attributes are the topmost layer's, unnamed ones' are what is on
// disk, and what a layer hides is gone, except by a mark on its root, at which
// overlayfs does not look.
func TestOverlaid(t *testing.T) {
	bottom := Found{Manifest: &Manifest{Records: []Record{
		{Path: "d", Type: Dir, Mode: 0o700, Xattrs: []Xattr{{"user.x", "y"}}},
		{Path: "d/kept", Type: Regular, Group: "d/kept"},
		{Path: "d/name", Type: Regular, Group: "d/kept"},
		{Path: "gone", Type: Regular},
		{Path: "o", Type: Dir, Mode: 0o755},
		{Path: "o/hidden", Type: Regular},
		{Path: "root", Type: Regular},
	}}}
	top := Found{Manifest: &Manifest{Records: []Record{
		{Type: Implied, Opaque: true},
		{Path: "d", Type: Implied},
		{Path: "d/new", Type: Symlink, Mode: 0o777, Target: "x"},
		{Path: "gone", Type: Whiteout},
		{Path: "o", Type: Dir, Mode: 0o711, Opaque: true},
	}}, Implied: []Record{{Path: "d", Type: Dir, Mode: 0o755, MTime: 7}}}
	m, err := Overlaid([]Found{bottom, top})
	if err != nil {
		t.Fatal(err)
	}
	want := []Record{
		{Path: "d", Type: Dir, Mode: 0o755, MTime: 7}, {Path: "d/kept", Type: Regular}, {Path: "d/name", Type: Regular},
		{Path: "d/new", Type: Symlink, Mode: 0o777, Target: "x"}, {Path: "o", Type: Dir, Mode: 0o711}, {Path: "root", Type: Regular},
	}
	for _, d := range Compare(&Manifest{Records: want}, m) {
		t.Error(d)
	}
	if _, err := Overlaid([]Found{bottom, {Manifest: top.Manifest}}); err == nil {
		t.Error("an unnamed directory that nobody looked at has attributes")
	}
}
