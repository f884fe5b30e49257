package layer

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Manifest lists the entries of one layer, sorted by the raw bytes of their
// paths. The zero value is the empty layer.
type Manifest struct {
	Records []Record

	// Tree marks the cumulative form that Merge makes: no whiteouts, no opaque
	// or implied directories, and no directory times. It has a TreeDigest.
	Tree bool

	// Warnings tell what the unpacker drops and the digest therefore does not
	// cover, such as an attribute that cannot be set. They are not encoded.
	Warnings []string
}

// Lookup returns the record of path, or nil.
func (m *Manifest) Lookup(path string) *Record {
	i := sort.Search(len(m.Records), func(i int) bool { return m.Records[i].Path >= path })
	if i < len(m.Records) && m.Records[i].Path == path {
		return &m.Records[i]
	}
	return nil
}

// Implied returns the paths of the directories that the layer's tar does not
// name. They can only be known from a tar: on disk they look like any other.
func (m *Manifest) Implied() map[string]bool {
	out := map[string]bool{}
	for i := range m.Records {
		if m.Records[i].Type == Implied {
			out[m.Records[i].Path] = true
		}
	}
	return out
}

// Sort brings Records into canonical order.
func (m *Manifest) Sort() {
	slices.SortFunc(m.Records, func(a, b Record) int { return strings.Compare(a.Path, b.Path) })
}

// Validate reports the first way in which m is not canonical. FromTar, Read,
// Merge and measure/tree return only manifests that pass.
func (m *Manifest) Validate() error {
	if len(m.Records) > MaxRecords {
		return fmt.Errorf("%d records: the limit is %d", len(m.Records), MaxRecords)
	}
	groups := map[string]int{}
	for i := range m.Records {
		r := &m.Records[i]
		if i > 0 && m.Records[i-1].Path >= r.Path {
			return fmt.Errorf("record %d, path %.300q: out of order", i, r.Path)
		}
		if err := r.validate(m.Tree); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
		if p := parentOf(r.Path); p != "" {
			d := m.Lookup(p)
			if d == nil || !d.Type.IsDir() {
				return fmt.Errorf("record %d, path %.300q: its parent is not a directory of the layer", i, r.Path)
			}
		}
		if r.Group == "" {
			continue
		}
		first := m.Lookup(r.Group)
		if first == nil || first.Group != r.Group || r.Group > r.Path || !sameInode(first, r) {
			return fmt.Errorf("record %d, path %.300q: hard-link group %.300q does not agree", i, r.Path, r.Group)
		}
		groups[r.Group]++
	}
	for g, n := range groups {
		if n < 2 {
			return fmt.Errorf("hard-link group %.300q has one name", g)
		}
	}
	return nil
}

func (r *Record) validate(tree bool) error {
	if r.Path == "" {
		if r.Type != Implied || !r.Opaque {
			return errors.New("the root has a record only when it is opaque")
		}
	} else if err := CheckPath(r.Path); err != nil {
		return err
	}
	bad := func(what string) error { return fmt.Errorf("path %.300q: %s: %s", r.Path, r.Type, what) }
	if !r.Type.known() {
		return bad("unknown type")
	}
	if r.Opaque && !r.Type.IsDir() {
		return bad("opaque, but not a directory")
	}
	if tree && (r.Type.bare() || r.Opaque || (r.Type == Dir && r.MTime != 0)) {
		return bad("a cumulative tree has no whiteout, opaque mark, implied directory or directory time")
	}
	if r.Type.bare() {
		if r.Mode != 0 || r.UID != 0 || r.GID != 0 || r.MTime != 0 || len(r.Xattrs) != 0 || r.Group != "" {
			return bad("has attributes")
		}
	}
	if r.Mode > 0o7777 || (r.Type == Symlink && r.Mode != 0o777) {
		return bad(fmt.Sprintf("mode %#o", r.Mode))
	}
	if r.Type != Regular && (r.Size != 0 || r.Content != [32]byte{}) {
		return bad("has content")
	}
	if r.Size < 0 {
		return bad("negative size")
	}
	if (r.Type == Symlink) != (r.Target != "") || len(r.Target) > MaxPath || strings.IndexByte(r.Target, 0) >= 0 {
		return bad("link target")
	}
	switch {
	case r.Type != Char && r.Type != Block:
		if r.Major != 0 || r.Minor != 0 {
			return bad("has a device number")
		}
	case !deviceFits(int64(r.Major), int64(r.Minor)):
		return bad("device number out of range")
	case r.Type == Char && r.Major == 0 && r.Minor == 0:
		return bad("character device 0:0 is a whiteout")
	}
	if r.Group != "" && r.Type == Dir {
		return bad("a directory has one name")
	}
	return r.validateXattrs(bad)
}

func (r *Record) validateXattrs(bad func(string) error) error {
	if len(r.Xattrs) > MaxXattrs {
		return bad("too many extended attributes")
	}
	for i, x := range r.Xattrs {
		if i > 0 && r.Xattrs[i-1].Name >= x.Name {
			return bad("extended attributes out of order")
		}
		if JudgeXattr(x.Name) != XattrKept || len(x.Name) > MaxName || strings.IndexByte(x.Name, 0) >= 0 || len(x.Value) > MaxXattr {
			return bad(fmt.Sprintf("extended attribute %.300q", x.Name))
		}
	}
	return nil
}

// sameInode reports whether a and b differ in nothing but their names.
func sameInode(a, b *Record) bool {
	return a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.MTime == b.MTime &&
		a.Size == b.Size && a.Content == b.Content && a.Target == b.Target &&
		a.Major == b.Major && a.Minor == b.Minor && slices.Equal(a.Xattrs, b.Xattrs)
}
