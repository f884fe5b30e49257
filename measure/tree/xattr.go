package tree

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
)

// attributes is what an entry's extended attributes say.
type attributes struct {
	kept    []layer.Xattr
	opaque  bool
	refused []layer.Xattr // what no layer may have
	diffs   []layer.Difference
}

// attributeSource reads one entry's extended attributes, by descriptor or by
// path where the entry must not be opened.
type attributeSource struct {
	fd   int
	path string // used when not empty
}

func (s attributeSource) list(buf []byte) (int, error) {
	if s.path != "" {
		return unix.Llistxattr(s.path, buf)
	}
	return unix.Flistxattr(s.fd, buf)
}

func (s attributeSource) get(name string, buf []byte) (int, error) {
	if s.path != "" {
		return unix.Lgetxattr(s.path, name, buf)
	}
	return unix.Fgetxattr(s.fd, name, buf)
}

const overlayTrusted, overlayUser = "trusted.overlay.", "user.overlay."

// readAttributes reads and judges the attributes of the entry at path.
func readAttributes(src attributeSource, path string, dir bool, o *Options, buf []byte) (a attributes, err error) {
	n, err := src.list(buf)
	switch {
	case errors.Is(err, unix.ENOTSUP):
		return a, nil
	case err != nil:
		return a, os.NewSyscallError("listxattr", err)
	case n == 0:
		return a, nil
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if layer.JudgeXattr(name) == layer.XattrIgnored {
			continue
		}
		n, err := src.get(name, buf)
		if errors.Is(err, unix.ENODATA) {
			continue // gone since the list was made; ctime tells
		}
		if err != nil {
			return a, fmt.Errorf("extended attribute %q: %w", name, os.NewSyscallError("getxattr", err))
		}
		all[name] = string(buf[:n])
	}
	return judgeAttributes(path, all, dir, o), nil
}

// judgeAttributes sorts an entry's attributes into those that are part of its
// record, marks, and those that no layer may have. UserXattr tells which spelling
// of overlay's marks the mount will read; the other spelling is refused, because
// nothing says it never will be.
func judgeAttributes(path string, all map[string]string, dir bool, o *Options) (a attributes) {
	ours := overlayTrusted
	if o.UserXattr {
		ours = overlayUser
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		value := all[name]
		overlay := strings.HasPrefix(name, overlayTrusted) || strings.HasPrefix(name, overlayUser)
		found := layer.Difference{Path: path, Found: fmt.Sprintf("%s=%.200q", name, value)}
		switch rule := layer.JudgeXattr(name); {
		case overlay && dir && name == ours+"opaque" && value == "y":
			a.opaque = true
		case o.CopiedUp && copyUpMark(strings.CutPrefix(name, ours)):
		case overlay:
			found.Kind = overlayKind(name)
			a.diffs = append(a.diffs, found)
			a.refused = append(a.refused, layer.Xattr{Name: name, Value: value})
		case rule == layer.XattrKept:
			a.kept = append(a.kept, layer.Xattr{Name: name, Value: value})
		case rule == layer.XattrRefused:
			found.Kind = layer.KindXattr
			a.diffs = append(a.diffs, found)
			a.refused = append(a.refused, layer.Xattr{Name: name, Value: value})
		}
	}
	return a
}

// copyUpMark says whether a mark is one that copying up leaves: where a file came
// from, that a directory holds such files, and the upper layer's own number.
// They decide about inode numbers of an upper layer; of a lower one overlayfs
// does not look at them (linux: fs/overlayfs/namei.c, readdir.c).
func copyUpMark(name string, ours bool) bool {
	return ours && (name == "origin" || name == "impure" || name == "uuid")
}

// rootOnly keeps what counts of the root's attributes: marks. The rest belongs
// to the snapshotter.
func (a attributes) rootOnly() attributes {
	a.kept = nil
	a.diffs = slices.DeleteFunc(a.diffs, func(d layer.Difference) bool { return d.Kind == layer.KindXattr })
	a.refused = slices.DeleteFunc(a.refused, func(x layer.Xattr) bool {
		return !strings.HasPrefix(x.Name, overlayTrusted) && !strings.HasPrefix(x.Name, overlayUser)
	})
	return a
}

// spoil puts refused attributes into m, which is no canonical manifest after
// that: its digest is no layer's, even for a caller who looks at nothing else.
// was is the entry as it would be without a reference.
func spoil(m *layer.Manifest, was layer.Record, refused []layer.Xattr) {
	if len(refused) == 0 {
		return
	}
	r := m.Lookup(was.Path)
	if r == nil {
		m.Records = append(m.Records, was)
		m.Sort()
		r = m.Lookup(was.Path)
	}
	was.Group = r.Group
	*r = was
	r.Xattrs = append(slices.Clone(r.Xattrs), refused...)
	slices.SortFunc(r.Xattrs, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
}

func overlayKind(name string) string {
	switch {
	case strings.HasSuffix(name, "overlay.redirect"):
		return layer.KindRedirect
	case strings.HasSuffix(name, "overlay.metacopy"):
		return layer.KindMetacopy
	}
	return layer.KindOverlayXattr
}
