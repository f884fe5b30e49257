package layer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Found is a layer as it is on disk: its manifest, and what the directories that
// are Implied in it really look like.
type Found struct {
	Manifest *Manifest
	Implied  []Record // of type Dir, sorted by path
	// Image says that it was found in a file system image, which mkfs.erofs packs
	// straight from the tar.
	Image bool
}

// packed is what mkfs.erofs makes of a directory that its tar does not name.
var packed = attrs{mode: 0o777}

// CheckImplied judges the attributes of the implied directories of a layer,
// which its digest cannot hold because they come from the layers below, nearest
// first. An implied directory may be as the unpacker makes it by itself (0755,
// root; in an image 0777, root) or a copy of the directory that the nearest layer
// below has at its path; its time is the moment of unpacking and says nothing.
func CheckImplied(top Found, below []Found) []Difference {
	var out []Difference
	for i := range top.Implied {
		r := &top.Implied[i]
		allowed := []attrs{top.plainDir(r)}
		if lower, ok := nearest(r.Path, below); ok {
			allowed = append(allowed, lower)
		}
		if top.Image {
			allowed = append(allowed, packed)
		}
		got := attrsOf(r)
		if slices.ContainsFunc(allowed, got.equal) {
			continue
		}
		wanted := make([]string, len(allowed))
		for i, a := range allowed {
			wanted[i] = a.String()
		}
		out = append(out, Difference{Path: r.Path, Kind: KindImplied, Wanted: strings.Join(wanted, " or "), Found: got.String()})
	}
	return out
}

// attrs is the part of a directory's record that the unpacker copies.
type attrs struct {
	mode     uint16
	uid, gid uint32
	xattrs   []Xattr
}

func attrsOf(r *Record) attrs { return attrs{r.Mode, r.UID, r.GID, r.Xattrs} }

func (a attrs) equal(b attrs) bool {
	return a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && slices.Equal(a.xattrs, b.xattrs)
}

// String is for people.
func (a attrs) String() string {
	s := fmt.Sprintf("%#04o %d:%d", a.mode, a.uid, a.gid)
	for _, x := range a.xattrs {
		s += fmt.Sprintf(" %s=%s", x.Name, hexText(x.Value))
	}
	return s
}

// record returns what is on disk at path.
func (f Found) record(path string) *Record {
	i, ok := slices.BinarySearchFunc(f.Implied, path, func(r Record, p string) int { return strings.Compare(r.Path, p) })
	if ok {
		return &f.Implied[i]
	}
	return f.Manifest.Lookup(path)
}

// plainDir is what mkdir makes of r, whose parent may hand down its group and
// its default ACL.
func (f Found) plainDir(r *Record) attrs {
	a := attrs{mode: 0o755}
	parent := f.record(parentOf(r.Path))
	if parent == nil {
		return a
	}
	if parent.Mode&setGID != 0 {
		a.gid = parent.GID
	}
	for _, x := range parent.Xattrs {
		if x.Name != xattrACLDefault {
			continue
		}
		if d, err := parseACL(x.Value); err == nil && d != nil {
			if d.extended() {
				a.xattrs = append(a.xattrs, Xattr{xattrACLAccess, d.chmod(0o755).encode()})
			}
			a.xattrs = append(a.xattrs, x)
		}
	}
	return a
}

// nearest finds the directory whose attributes the unpacker copies: in the first
// layer that has anything at path, links included, if that is a directory.
func nearest(path string, below []Found) (attrs, bool) {
	for _, f := range below {
		r, err := f.follow(path)
		if errors.Is(err, errNotExist) {
			continue
		}
		if err != nil || !r.Type.IsDir() {
			return attrs{}, false
		}
		return attrsOf(r), true
	}
	return attrs{}, false
}

// follow finds path in a layer with the unpacker's rules for links.
func (f Found) follow(path string) (*Record, error) {
	straight := true
	for i := range path {
		if path[i] != '/' {
			continue
		}
		if r := f.Manifest.Lookup(path[:i]); r == nil {
			return nil, errNotExist
		} else if !r.Type.IsDir() {
			straight = false
			break
		}
	}
	if r := f.record(path); straight && (r == nil || r.Type != Symlink) {
		if r == nil {
			return nil, errNotExist
		}
		return r, nil
	}
	p, err := f.Manifest.dir().resolve("/" + path)
	if err != nil {
		return nil, err
	}
	if p == "/" {
		return nil, refusal(ReasonLowerLayer, "the layer's root has no record")
	}
	if r := f.record(p[1:]); r != nil {
		return r, nil
	}
	return nil, errNotExist
}

// dir rebuilds as much of the layer's directory as looking up paths needs.
func (m *Manifest) dir() *layerDir {
	l := newLayerDir()
	dirs := map[string]*inode{"": l.root}
	for i := range m.Records {
		r := &m.Records[i]
		if r.Path == "" {
			continue
		}
		parent := dirs[parentOf(r.Path)]
		n := &inode{typ: r.Type, target: r.Target, parent: parent}
		if r.Type.IsDir() {
			dirs[r.Path] = n
		}
		parent.put(r.Path[strings.LastIndexByte(r.Path, '/')+1:], n)
	}
	return l
}
