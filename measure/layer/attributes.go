package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// attributes sets owner, extended attributes, mode and time of the inode an
// entry made or, by a hard-link entry, shares: in this order, which decides
// what becomes of set-user-ID bits, file capabilities and ACLs.
func (l *layerDir) attributes(n *inode, hdr *tar.Header, clean string) error {
	uid, gid, err := owner(hdr)
	if err != nil {
		return err
	}
	n.chown(uid, gid)
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if err := l.setTarXattr(n, hdr.Name, name, value); err != nil {
				return err
			}
		}
	}
	if n.typ != Symlink {
		n.chmod(uint16(hdr.Mode & 0o7777))
	}
	n.mtime = boundedSeconds(hdr.ModTime)
	n.clock = false
	if hdr.Typeflag == tar.TypeDir {
		l.nameDir(clean, n.mtime)
	}
	return nil
}

func owner(hdr *tar.Header) (uid, gid uint32, err error) {
	// chown(2) takes 32 bits, and the largest of them means "as it was".
	fits := func(id int) bool { return id >= 0 && int64(id) < math.MaxUint32 }
	if !fits(hdr.Uid) || !fits(hdr.Gid) {
		return 0, 0, refusal(ReasonOwner, "user %d, group %d", hdr.Uid, hdr.Gid)
	}
	return uint32(hdr.Uid), uint32(hdr.Gid), nil
}

var (
	minTime = time.Unix(0, 0)
	maxTime = time.Unix(0, math.MaxInt64)
)

// boundedSeconds clamps t as the unpacker does: what it cannot keep becomes 0.
func boundedSeconds(t time.Time) int64 {
	if t.Before(minTime) || t.After(maxTime) {
		return 0
	}
	return t.Unix()
}

// setTarXattr does what setxattr(2) makes of one attribute of a tar entry.
func (l *layerDir) setTarXattr(n *inode, entry, name, value string) error {
	if strings.HasPrefix(name, "trusted.") {
		l.warn(entry, name, "the unpacker never sets it")
		return nil
	}
	switch JudgeXattr(name) {
	case XattrIgnored:
		return nil
	case XattrRefused:
		return refusal(ReasonXattr, "extended attribute %.300q is not in the closed list", name)
	}
	if len(name) > MaxName || len(value) > MaxXattr {
		return refusal(ReasonXattr, "extended attribute with a name of %d bytes and a value of %d", len(name), len(value))
	}
	l.held += int64(len(name) + len(value))
	var err error
	switch name {
	case XattrCapability:
		if value, err = canonicalCapability(value); err == nil {
			n.setXattr(name, value)
		}
	case xattrACLAccess, xattrACLDefault:
		if n.typ == Symlink {
			l.warn(entry, name, "a symbolic link has none")
			return nil
		}
		err = n.setACL(name, value)
	default:
		if n.typ != Regular && n.typ != Dir {
			l.warn(entry, name, "only regular files and directories have it")
			return nil
		}
		n.setXattr(name, value)
	}
	if err != nil {
		return refusal(ReasonXattr, "extended attribute %s: %v", name, err)
	}
	return n.checkXattrs()
}

func (n *inode) checkXattrs() error {
	size := 0
	for name, value := range n.xattrs {
		size += len(name) + len(value) + 8
	}
	if len(n.xattrs) > MaxXattrs-2 || size > maxXattrBytes-2*MaxXattr {
		return refusal(ReasonXattr, "%d extended attributes of %d bytes", len(n.xattrs), size)
	}
	return nil
}

func (n *inode) setACL(name, value string) error {
	a, err := parseACL(value)
	if err != nil {
		return err
	}
	if name == xattrACLDefault {
		if !n.typ.IsDir() && a != nil {
			return errors.New("only a directory has a default ACL")
		}
		n.aclDefault = a
		return nil
	}
	// An ACL that a mode can say is not stored; the mode follows from the
	// entry's own mode a moment later.
	if n.aclAccess = nil; a.extended() {
		n.aclAccess = a
	}
	return nil
}

func (l *layerDir) warn(entry, name, why string) {
	const enough = 100
	if len(l.warnings) < enough {
		l.warnings = append(l.warnings, fmt.Sprintf("%.300q: extended attribute %.300q is dropped: %s", entry, name, why))
	}
}

// nameDir remembers a directory entry for setDirTimes. Of several with one name
// only the last matters: all of them would find the same directory.
func (l *layerDir) nameDir(clean string, mtime int64) {
	if i, ok := l.named[clean]; ok {
		l.nameds[i].name = ""
	} else {
		l.held += int64(len(clean))
	}
	l.named[clean] = len(l.nameds)
	l.nameds = append(l.nameds, namedDir{clean, mtime})
	if len(l.nameds) > 64 && len(l.nameds) > 2*len(l.named) {
		l.nameds = slices.DeleteFunc(l.nameds, func(d namedDir) bool { return d.name == "" })
		for i, d := range l.nameds {
			l.named[d.name] = i
		}
	}
}

// setDirTimes sets the times of named directories when nothing is unpacked any
// more. The unpacker looks the names up again, links included, and whatever it
// finds gets the time.
func (l *layerDir) setDirTimes() error {
	for _, d := range l.nameds {
		if d.name == "" {
			continue
		}
		p, err := l.resolve(d.name)
		if err != nil {
			return named(d.name, err)
		}
		n, err := l.lstat(p)
		if errors.Is(err, errNotExist) {
			return &MeaninglessError{Path: d.name, Reason: ReasonDirectoryGone, Detail: "the directory does not exist any more when its time is set"}
		}
		if err != nil {
			return named(d.name, err)
		}
		n.mtime, n.clock = d.mtime, false
	}
	return nil
}

// manifest lists what was unpacked.
func (l *layerDir) manifest() (*Manifest, error) {
	all := make([]pathInode, 0, l.names+1)
	if l.root.opaque {
		all = append(all, pathInode{"", l.root})
	}
	all, err := collect(all, l.root, "")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b pathInode) int { return strings.Compare(a.path, b.path) })
	m := &Manifest{Warnings: l.warnings, Records: make([]Record, len(all))}
	for i, e := range all {
		m.Records[i] = e.n.record(e.path)
		if e.n.names > 1 && e.n.typ != Whiteout {
			if e.n.first == "" {
				e.n.first = e.path
			}
			m.Records[i].Group = e.n.first
		}
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("layer tar: %w", err)
	}
	return m, nil
}

type pathInode struct {
	path string
	n    *inode
}

func collect(all []pathInode, dir *inode, prefix string) ([]pathInode, error) {
	for name, n := range dir.children {
		p := prefix + name
		if n.typ == Dir && n.clock {
			return nil, &MeaninglessError{Path: p, Reason: ReasonTime, Detail: "the directory's time would be the moment of unpacking"}
		}
		n.names++
		all = append(all, pathInode{p, n})
		if n.typ.IsDir() {
			var err error
			if all, err = collect(all, n, p+"/"); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
