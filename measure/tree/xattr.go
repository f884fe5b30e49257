package tree

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
)

// attributes is what an entry's extended attributes say.
type attributes struct {
	kept   []layer.Xattr
	opaque bool
	diffs  []layer.Difference
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
// userXattr tells which spelling of overlay's marks the mount will read; the
// other spelling is refused, because nothing says it never will be.
func readAttributes(src attributeSource, path string, dir, userXattr bool, buf []byte) (a attributes, err error) {
	n, err := src.list(buf)
	switch {
	case errors.Is(err, unix.ENOTSUP):
		return a, nil
	case err != nil:
		return a, os.NewSyscallError("listxattr", err)
	case n == 0:
		return a, nil
	}
	ours := overlayTrusted
	if userXattr {
		ours = overlayUser
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		overlay := strings.HasPrefix(name, overlayTrusted) || strings.HasPrefix(name, overlayUser)
		rule := layer.JudgeXattr(name)
		if !overlay && rule == layer.XattrIgnored {
			continue
		}
		n, err := src.get(name, buf)
		if errors.Is(err, unix.ENODATA) {
			continue // gone since the list was made; ctime tells
		}
		if err != nil {
			return a, fmt.Errorf("extended attribute %q: %w", name, os.NewSyscallError("getxattr", err))
		}
		value := string(buf[:n])
		switch {
		case overlay && dir && name == ours+"opaque" && value == "y":
			a.opaque = true
		case overlay:
			a.diffs = append(a.diffs, layer.Difference{Path: path, Kind: overlayKind(name), Found: fmt.Sprintf("%s=%.200q", name, value)})
		case rule == layer.XattrKept:
			a.kept = append(a.kept, layer.Xattr{Name: name, Value: value})
		default:
			a.diffs = append(a.diffs, layer.Difference{Path: path, Kind: layer.KindXattr, Found: fmt.Sprintf("%s=%.200q", name, value)})
		}
	}
	return a, nil
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
