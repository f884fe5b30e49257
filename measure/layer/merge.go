package layer

import (
	"fmt"
	"slices"
	"strings"
)

// Merge returns the cumulative tree that the native snapshotter makes of
// layers, lowest first: it unpacks each over a copy of the one below. The result
// has the Tree form and a TreeDigest.
//
// A copy keeps neither the times of directories nor hard links between anything
// but regular files, so the form has neither. Where a layer's meaning on the
// tree depends on more than the manifests say, the error is a *MeaninglessError.
func Merge(layers []*Manifest) (*Manifest, error) {
	t := &cumulative{records: map[string]merged{}}
	for i, m := range layers {
		if m.Tree {
			return nil, fmt.Errorf("layer %d is a cumulative tree already", i)
		}
		if err := t.add(i, m); err != nil {
			return nil, err
		}
	}
	return t.manifest()
}

// cumulative is the tree so far.
type cumulative struct {
	records map[string]merged
	// overlay says that overlayfs merges and not the unpacker: it looks for an
	// opaque mark on every directory but a layer's root.
	overlay bool
}

// merged is a record with the layer its inode came from: hard-link groups of
// different layers are different.
type merged struct {
	Record
	layer int
}

func (t *cumulative) add(index int, m *Manifest) error {
	t.hide(m)
	for i := range m.Records {
		r := &m.Records[i]
		if r.Type == Whiteout || r.Path == "" {
			continue
		}
		if err := t.put(index, m, *r); err != nil {
			return err
		}
	}
	return nil
}

// hide takes away what a layer hides of those below it.
func (t *cumulative) hide(m *Manifest) {
	gone := map[string]bool{}  // removed with everything below
	empty := map[string]bool{} // only what is below is removed
	for i := range m.Records {
		r := &m.Records[i]
		old, exists := t.records[r.Path]
		switch {
		case r.Opaque && r.Path == "" && t.overlay:
		case r.Opaque:
			empty[r.Path] = true
		case r.Type == Whiteout, exists && old.Type == Dir && !r.Type.IsDir():
			gone[r.Path] = true
		}
	}
	t.remove(gone, empty)
}

// remove takes away gone and what is below gone and empty, in one pass.
func (t *cumulative) remove(gone, empty map[string]bool) {
	if len(gone) == 0 && len(empty) == 0 {
		return
	}
	for p := range t.records {
		out := gone[p]
		for up := p; !out && up != ""; {
			up = parentOf(up)
			out = gone[up] || empty[up]
		}
		if out {
			delete(t.records, p)
		}
	}
}

func (t *cumulative) put(index int, m *Manifest, r Record) error {
	old, exists := t.records[r.Path]
	parent := t.records[parentOf(r.Path)]
	if !exists {
		if err := noInheritance(&parent.Record, m.Lookup(parent.Path), r.Path); err != nil {
			return err
		}
	}
	switch {
	case r.Type == Implied && exists && old.Type == Dir:
		return nil
	case r.Type == Implied && exists:
		return &MeaninglessError{Path: r.Path, Reason: ReasonLowerLayer,
			Detail: fmt.Sprintf("the layer puts entries below it, and a lower layer has a %s there", old.Type)}
	case r.Type == Implied:
		r = Record{Path: r.Path, Type: Dir, Mode: 0o755}
		if parent.Mode&setGID != 0 {
			r.GID = parent.GID
		}
	case r.Type == Dir && exists && old.Type == Dir:
		r.Xattrs = mergeXattrs(old.Xattrs, r.Xattrs, r.Mode)
	}
	if r.Type == Dir {
		r.MTime, r.Opaque = 0, false
	}
	t.records[r.Path] = merged{r, index}
	return nil
}

// noInheritance refuses a new entry in a directory whose default ACL comes from
// a lower layer: the entry would get an ACL its layer does not know of.
func noInheritance(dir, own *Record, path string) error {
	has := func(r *Record) bool {
		return r != nil && slices.ContainsFunc(r.Xattrs, func(x Xattr) bool { return x.Name == xattrACLDefault })
	}
	if has(dir) && !has(own) {
		return &MeaninglessError{Path: path, Reason: ReasonLowerLayer, Detail: "its directory has a default ACL from a lower layer"}
	}
	return nil
}

// mergeXattrs is what a directory has after it is unpacked once more: nothing is
// taken away, and chmod rewrites an ACL that was there.
func mergeXattrs(old, set []Xattr, mode uint16) []Xattr {
	out := slices.Clone(set)
	for _, x := range old {
		if slices.ContainsFunc(set, func(s Xattr) bool { return s.Name == x.Name }) {
			continue
		}
		if x.Name == xattrACLAccess {
			if a, err := parseACL(x.Value); err == nil {
				x.Value = a.chmod(mode).encode()
			}
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (t *cumulative) manifest() (*Manifest, error) {
	m := &Manifest{Tree: true, Records: make([]Record, 0, len(t.records))}
	type group struct {
		layer int
		first string
	}
	groups := map[group][]string{}
	for _, r := range t.records {
		if g := r.Group; g != "" {
			r.Group = ""
			if r.Type == Regular {
				k := group{r.layer, g}
				groups[k] = append(groups[k], r.Path)
			}
		}
		m.Records = append(m.Records, r.Record)
	}
	m.Sort()
	for _, names := range groups {
		if len(names) < 2 {
			continue
		}
		first := slices.Min(names)
		for _, name := range names {
			m.Lookup(name).Group = first
		}
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("cumulative tree: %w", err)
	}
	return m, nil
}
