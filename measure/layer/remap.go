package layer

import (
	"fmt"
	"slices"
)

// Overlaid returns what overlayfs shows of layers, lowest first, as the manifest
// of a layer into which all of it was copied up: without whiteouts and opaque
// marks, with the attributes that unnamed directories really have, and without
// hard links, which copying up breaks (index=off). A directory is the topmost
// layer's that has it; only its entries are merged.
func Overlaid(layers []Found) (*Manifest, error) {
	t := &cumulative{records: map[string]merged{}, overlay: true}
	for i, f := range layers {
		if f.Manifest.Tree {
			return nil, fmt.Errorf("layer %d is a cumulative tree already", i)
		}
		t.hide(f.Manifest)
		for j := range f.Manifest.Records {
			r := f.Manifest.Records[j]
			if r.Type == Whiteout || r.Path == "" {
				continue
			}
			if r.Type == Implied {
				real := f.record(r.Path)
				if real.Type != Dir {
					return nil, fmt.Errorf("layer %d: what its unnamed directory %.300q looks like is not known", i, r.Path)
				}
				r = *real
			}
			r.Opaque, r.Group = false, ""
			t.records[r.Path] = merged{r, i}
		}
	}
	m := &Manifest{Records: make([]Record, 0, len(t.records))}
	for _, r := range t.records {
		m.Records = append(m.Records, r.Record)
	}
	m.Sort()
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("overlaid layers: %w", err)
	}
	return m, nil
}

// UnmappedError says that an owner has no place in a user namespace.
type UnmappedError struct {
	Path     string
	UID, GID uint32
}

func (e *UnmappedError) Error() string {
	return fmt.Sprintf("%q: its owner %d:%d is outside the user namespace's mapping", e.Path, e.UID, e.GID)
}

// Chowned returns m as a recursive lchown(2) by the mappings leaves it. The
// kernel drops file capabilities from everything but directories, and the
// set-user-ID and set-group-ID bits: containerd 2 puts these back, earlier ones
// do not, which special tells. Its error is an *UnmappedError for an owner that
// a mapping does not have.
func (m *Manifest) Chowned(uids, gids IDMap, special bool) (*Manifest, error) {
	out := &Manifest{Tree: m.Tree, Records: slices.Clone(m.Records)}
	for i := range out.Records {
		r := &out.Records[i]
		if r.Type.bare() {
			continue
		}
		uid, uok := uids.Host(r.UID)
		gid, gok := gids.Host(r.GID)
		if !uok || !gok {
			return nil, &UnmappedError{r.Path, r.UID, r.GID}
		}
		r.UID, r.GID = uid, gid
		if r.Type == Dir {
			continue
		}
		r.Xattrs = slices.DeleteFunc(slices.Clone(r.Xattrs), func(x Xattr) bool { return x.Name == XattrCapability })
		if !special {
			r.Mode = withoutSpecial(r)
		}
	}
	return out, nil
}

const (
	setUID    = 0o4000
	setGID    = 0o2000
	groupExec = 0o010
)

// withoutSpecial is what is left of a mode after chown(2) by root: the
// set-group-ID bit stays where nobody can execute the file by it (linux:
// setattr_should_drop_sgid).
func withoutSpecial(r *Record) uint16 {
	if r.Type == Symlink {
		return r.Mode
	}
	mode := r.Mode &^ setUID
	if mode&groupExec != 0 {
		mode &^= setGID
	}
	return mode
}

// Special returns the first entry from which chown(2) takes bits of the mode, or
// nil: by it the two kinds of remapping are told apart.
func (m *Manifest) Special() *Record {
	for i := range m.Records {
		if r := &m.Records[i]; r.Type != Dir && !r.Type.bare() && withoutSpecial(r) != r.Mode {
			return r
		}
	}
	return nil
}
