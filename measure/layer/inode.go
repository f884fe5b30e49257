package layer

import (
	"slices"
	"strings"
)

// inode is one file of the simulated layer directory. Names live in the parent
// directory, so that hard links share an inode as they do on disk.
type inode struct {
	typ          Type // never Whiteout for a name with attributes, never Socket
	opaque       bool
	mode         uint16
	uid, gid     uint32
	mtime        int64
	size         int64
	content      [32]byte
	target       string
	major, minor uint32
	xattrs       map[string]string
	aclAccess    acl
	aclDefault   acl

	// Directories only. clock is set while the directory's time is the moment
	// of unpacking, because a child came or went after the time was set.
	children map[string]*inode
	parent   *inode
	clock    bool

	// first is the smallest path seen while records are made.
	first string
	names int
}

func newDir(t Type, parent *inode) *inode {
	d := &inode{typ: t, mode: 0o755, parent: parent}
	return d
}

func (d *inode) put(name string, child *inode) {
	if d.children == nil {
		d.children = map[string]*inode{}
	}
	d.children[name] = child
	d.clock = true
}

func (d *inode) remove(name string) {
	delete(d.children, name)
	d.clock = true
}

// inherit gives a new child of d what a default ACL gives it.
func (d *inode) inherit(child *inode) {
	if d.aclDefault == nil || child.typ == Symlink {
		return
	}
	if d.aclDefault.extended() {
		child.aclAccess = d.aclDefault
	}
	if child.typ.IsDir() {
		child.aclDefault = d.aclDefault
	}
}

func (n *inode) chmod(mode uint16) {
	n.mode = mode
	if n.aclAccess != nil {
		n.aclAccess = n.aclAccess.chmod(mode)
	}
}

// chown drops file capabilities, as the kernel does on everything but
// directories, even where the owner stays the same.
func (n *inode) chown(uid, gid uint32) {
	n.uid, n.gid = uid, gid
	if !n.typ.IsDir() {
		delete(n.xattrs, XattrCapability)
	}
}

func (n *inode) setXattr(name, value string) {
	if n.xattrs == nil {
		n.xattrs = map[string]string{}
	}
	n.xattrs[name] = value
}

// record returns n's record under path, without its hard-link group.
func (n *inode) record(path string) Record {
	if n.typ.bare() {
		return Record{Path: path, Type: n.typ, Opaque: n.opaque}
	}
	r := Record{
		Path: path, Type: n.typ, Opaque: n.opaque,
		Mode: n.mode, UID: n.uid, GID: n.gid, MTime: n.mtime,
		Size: n.size, Content: n.content, Target: n.target, Major: n.major, Minor: n.minor,
	}
	for name, value := range n.xattrs {
		r.Xattrs = append(r.Xattrs, Xattr{name, value})
	}
	if n.aclAccess != nil {
		r.Xattrs = append(r.Xattrs, Xattr{xattrACLAccess, n.aclAccess.encode()})
	}
	if n.aclDefault != nil {
		r.Xattrs = append(r.Xattrs, Xattr{xattrACLDefault, n.aclDefault.encode()})
	}
	slices.SortFunc(r.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return r
}
