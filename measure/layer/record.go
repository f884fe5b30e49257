// Package layer says what one image layer is, to the bit.
//
// A Manifest lists every entry of a layer in a canonical form; its Digest names
// the layer's content. A manifest is computed from the layer's tar (FromTar),
// from the directory it was unpacked to (measure/tree) or from an image file,
// and all three must agree. The meaning of a tar is what containerd's
// archive.Apply makes of it in an overlay layer's directory; docs/layer-digest.md
// is the specification.
package layer

import (
	"fmt"
	"strings"
)

// Type is the kind of an entry. Its value is the byte that is hashed.
type Type byte

// The types of entries.
const (
	Regular  Type = 'f'
	Dir      Type = 'd'
	Symlink  Type = 'l'
	Char     Type = 'c'
	Block    Type = 'b'
	FIFO     Type = 'p'
	Socket   Type = 's' // never in a tar's manifest; found on disk only
	Whiteout Type = 'w' // hides a lower layer's entry; has no attributes
	Implied  Type = 'i' // a directory that the tar does not name; has no attributes
)

// String returns the name used in messages.
func (t Type) String() string {
	switch t {
	case Regular:
		return "regular file"
	case Dir:
		return "directory"
	case Symlink:
		return "symbolic link"
	case Char:
		return "character device"
	case Block:
		return "block device"
	case FIFO:
		return "FIFO"
	case Socket:
		return "socket"
	case Whiteout:
		return "whiteout"
	case Implied:
		return "implied directory"
	}
	return fmt.Sprintf("type %q", byte(t))
}

func (t Type) known() bool {
	switch t {
	case Regular, Dir, Symlink, Char, Block, FIFO, Socket, Whiteout, Implied:
		return true
	}
	return false
}

// IsDir reports whether t can have children.
func (t Type) IsDir() bool { return t == Dir || t == Implied }

// bare reports whether a record of this type ends after its marks.
func (t Type) bare() bool { return t == Whiteout || t == Implied }

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value string // raw bytes
}

// Record is one entry of a layer. Fields that a type does not have are zero.
type Record struct {
	// Path is relative to the layer's root, raw bytes, without "." and "..".
	// The empty path is the root itself, which has a record only when it is
	// opaque, and then of type Implied.
	Path   string
	Type   Type
	Opaque bool   // directories: hides what lower layers have here
	Mode   uint16 // the low twelve bits; 0777 for symbolic links
	UID    uint32
	GID    uint32
	MTime  int64 // whole seconds since 1970

	Size    int64    // Regular
	Content [32]byte // Regular: SHA-256

	Target string // Symlink

	Major, Minor uint32 // Char, Block

	Xattrs []Xattr // sorted by name
	// Group is the smallest path among the names of the same inode where there
	// are several within the layer; every name has it, the first one included.
	Group string
}

// Limits of every manifest, whatever it was made from. They are the kernel's,
// or far beyond what an image holds.
const (
	MaxPath    = 4095     // PATH_MAX less the terminator
	MaxName    = 255      // NAME_MAX
	MaxXattr   = 64 << 10 // XATTR_SIZE_MAX
	MaxXattrs  = 1 << 10  // attributes of one entry
	MaxRecords = 1 << 22
	MaxSize    = 1 << 30 // bytes of one encoded manifest

	// MaxMTime is the last second containerd's unpacker keeps; later times
	// become 0.
	MaxMTime = (1<<63 - 1) / 1_000_000_000
)

// CheckPath reports why p cannot be the path of an entry below the root.
func CheckPath(p string) error {
	if p == "" {
		return fmt.Errorf("empty path")
	}
	if len(p) > MaxPath {
		return fmt.Errorf("path of %d bytes: the limit is %d", len(p), MaxPath)
	}
	for rest, more := p, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if err := checkName(name); err != nil {
			return fmt.Errorf("path %.300q: %w", p, err)
		}
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("empty component")
	case name == "." || name == "..":
		return fmt.Errorf("component %q", name)
	case len(name) > MaxName:
		return fmt.Errorf("component of %d bytes: the limit is %d", len(name), MaxName)
	case strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("NUL byte in component %.300q", name)
	}
	return nil
}

// parentOf returns the path of the directory that holds p; "" is the root.
func parentOf(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}
