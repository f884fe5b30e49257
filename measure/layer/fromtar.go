package layer

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
)

// maxExpansion bounds how much content sparse entries may add to what is read:
// a few bytes of header can claim exabytes of zeros.
const maxExpansion = 64 << 30

// FromTar returns the manifest of the layer that the uncompressed tar r
// unpacks to. It reads r to its end, also behind the tar's own end mark, so that
// a caller who tees r into a hash has seen the whole blob. Content is hashed
// while it is read and not kept.
//
// The error is a *MeaninglessError where the tar cannot be a layer; any other
// error is r's or archive/tar's.
func FromTar(r io.Reader) (*Manifest, error) {
	in := &countingReader{r: r}
	l := newLayerDir()
	if err := l.apply(tar.NewReader(in), in); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, fmt.Errorf("layer tar, after its end mark: %w", err)
	}
	return l.manifest()
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// layerDir is the simulated directory a layer is unpacked to.
type layerDir struct {
	root     *inode
	names    int   // live names
	held     int64 // bytes kept for names, targets and attributes
	expanded int64 // content bytes hashed
	steps    int   // components looked at while links were followed
	hash     hash.Hash
	buf      []byte
	warnings []string

	// Named directories get their times once more in the end, in this order.
	named  map[string]int
	nameds []namedDir
}

type namedDir struct {
	name  string
	mtime int64
}

func newLayerDir() *layerDir {
	return &layerDir{root: newDir(Implied, nil), hash: sha256.New(), buf: make([]byte, 64<<10), named: map[string]int{}}
}

func (l *layerDir) apply(tr *tar.Reader, in *countingReader) error {
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return l.setDirTimes()
		}
		if err != nil {
			return fmt.Errorf("layer tar: %w", err)
		}
		if err := l.entry(hdr, tr, in); err != nil {
			return named(hdr.Name, err)
		}
		if l.names > MaxRecords || len(l.named) > MaxRecords || l.held > MaxSize {
			return refusal(ReasonTooMany, "more than %d entries, or %d bytes of names and attributes", MaxRecords, MaxSize)
		}
	}
}

// named gives err, if it is a refusal without a path, the entry's name.
func named(name string, err error) error {
	var m *MeaninglessError
	if errors.As(err, &m) {
		if m.Path == "" {
			m.Path = name
		}
		return m
	}
	if errors.Is(err, errNotExist) {
		return &MeaninglessError{Path: name, Reason: ReasonParent, Detail: "a parent does not exist"}
	}
	return fmt.Errorf("layer tar, entry %.300q: %w", name, err)
}

// entry unpacks one header, in the order of archive.Apply's own steps.
func (l *layerDir) entry(hdr *tar.Header, content io.Reader, in *countingReader) error {
	clean := path.Clean(hdr.Name)
	if err := checkTarName(clean); err != nil {
		return err
	}
	dirPart, base := path.Split(clean)
	parentPath, err := l.resolve(dirPart)
	if err != nil {
		return err
	}
	full := path.Join(parentPath, path.Join("/", base))
	if full == "/" {
		return nil // the root's own attributes are the snapshotter's
	}
	parent, err := l.mkparent(parentPath)
	if err != nil {
		return err
	}
	name := path.Base(full)
	if len(name) > MaxName || len(full) > MaxPath {
		return refusal(ReasonName, "name of %d bytes in a path of %d", len(name), len(full))
	}
	if strings.HasPrefix(name, ".wh.") {
		return l.whiteout(parent, name)
	}
	if old, ok := parent.children[name]; ok && (!old.typ.IsDir() || hdr.Typeflag != tar.TypeDir) {
		l.removeAll(parent, name)
	}
	n, err := l.create(parent, name, hdr, content, in)
	if err != nil || n == nil {
		return err
	}
	return l.attributes(n, hdr, clean)
}

func checkTarName(clean string) error {
	switch {
	case strings.IndexByte(clean, 0) >= 0:
		return refusal(ReasonName, "NUL byte")
	case clean == "..", strings.HasPrefix(clean, "../"):
		return refusal(ReasonName, "it points out of the layer")
	case len(clean) > MaxPath+1:
		return refusal(ReasonName, "path of %d bytes: the limit is %d", len(clean), MaxPath)
	}
	return nil
}

// mkparent returns the directory at the resolved path p, and creates what is
// missing of it as implied directories.
func (l *layerDir) mkparent(p string) (*inode, error) {
	at := l.root
	for rest := strings.TrimPrefix(p, "/"); rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		next, ok := at.children[name]
		if !ok {
			if len(name) > MaxName {
				return nil, refusal(ReasonName, "name of %d bytes", len(name))
			}
			next = newDir(Implied, at)
			at.inherit(next)
			next.chmod(0o755)
			l.link(at, name, next)
		}
		if !next.typ.IsDir() {
			return nil, refusal(ReasonParent, "its parent is a %s", next.typ)
		}
		at = next
	}
	return at, nil
}

func (l *layerDir) link(parent *inode, name string, n *inode) {
	parent.put(name, n)
	l.names++
	l.held += int64(len(name))
}

func (l *layerDir) removeAll(parent *inode, name string) {
	n := parent.children[name]
	for child := range n.children {
		l.removeAll(n, child)
	}
	parent.remove(name)
	l.names--
}

// whiteout does what archive.OverlayConvertWhiteout does for a name that begins
// with ".wh.": the type of the entry does not matter.
func (l *layerDir) whiteout(parent *inode, name string) error {
	if name == ".wh..wh..opq" {
		parent.opaque = true
		return nil
	}
	hidden := strings.TrimPrefix(name, ".wh.")
	if hidden == "" || hidden == "." || hidden == ".." {
		return refusal(ReasonWhiteout, "it hides no entry of its directory")
	}
	if _, ok := parent.children[hidden]; ok {
		return refusal(ReasonWhiteout, "the layer itself has %.300q already", hidden)
	}
	l.link(parent, hidden, &inode{typ: Whiteout})
	return nil
}

// create makes the entry's inode; nil without an error means that the entry
// makes none.
func (l *layerDir) create(parent *inode, name string, hdr *tar.Header, content io.Reader, in *countingReader) (*inode, error) {
	var n *inode
	switch hdr.Typeflag {
	case tar.TypeDir:
		if old, ok := parent.children[name]; ok {
			old.typ = Dir
			return old, nil
		}
		n = newDir(Dir, parent)
	case tar.TypeReg:
		n = &inode{typ: Regular}
		if err := l.hashContent(n, content, in); err != nil {
			return nil, err
		}
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) > MaxPath || strings.IndexByte(hdr.Linkname, 0) >= 0 {
			return nil, refusal(ReasonSymlinkTarget, "target of %d bytes", len(hdr.Linkname))
		}
		n = &inode{typ: Symlink, mode: 0o777, target: hdr.Linkname}
		l.held += int64(len(hdr.Linkname))
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		var err error
		if n, err = newSpecial(hdr); err != nil {
			return nil, err
		}
	case tar.TypeLink:
		target, err := l.linkTarget(hdr.Linkname)
		if err != nil {
			return nil, err
		}
		l.link(parent, name, target)
		return target, nil
	case tar.TypeXGlobalHeader:
		return nil, nil // what its name stood for is gone by now, and stays gone
	default:
		return nil, refusal(ReasonType, "type %q", hdr.Typeflag)
	}
	parent.inherit(n)
	l.link(parent, name, n)
	return n, nil
}

func (l *layerDir) hashContent(n *inode, content io.Reader, in *countingReader) error {
	l.hash.Reset()
	for {
		k, err := content.Read(l.buf)
		l.hash.Write(l.buf[:k])
		n.size += int64(k)
		if l.expanded += int64(k); l.expanded > in.n+maxExpansion {
			return refusal(ReasonTooMany, "sparse entries grow to more than %d bytes", int64(maxExpansion))
		}
		if errors.Is(err, io.EOF) {
			l.hash.Sum(n.content[:0])
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func newSpecial(hdr *tar.Header) (*inode, error) {
	if !deviceFits(hdr.Devmajor, hdr.Devminor) {
		return nil, refusal(ReasonDevice, "device number %d:%d does not fit", hdr.Devmajor, hdr.Devminor)
	}
	n := &inode{major: uint32(hdr.Devmajor), minor: uint32(hdr.Devminor)}
	switch hdr.Typeflag {
	case tar.TypeFifo:
		return &inode{typ: FIFO}, nil
	case tar.TypeBlock:
		n.typ = Block
	case tar.TypeChar:
		if n.major == 0 && n.minor == 0 {
			return nil, refusal(ReasonDeviceZero, "a character device 0:0 looks like a whiteout")
		}
		n.typ = Char
	}
	return n, nil
}

// deviceFits reports whether mknod(2) keeps the number: it takes 32 bits, of
// which 12 are the major number.
func deviceFits(major, minor int64) bool {
	return major >= 0 && major < 1<<12 && minor >= 0 && minor < 1<<20
}

// linkTarget finds the inode a hard-link entry names. Links in the target's
// directory are followed, the target itself is not.
func (l *layerDir) linkTarget(linkname string) (*inode, error) {
	if strings.IndexByte(linkname, 0) >= 0 {
		return nil, refusal(ReasonHardlink, "NUL byte in its target")
	}
	dirPart, base := path.Split(linkname)
	dir, err := l.resolve(dirPart)
	if err != nil {
		return nil, err
	}
	target, err := l.lstat(path.Join(dir, base))
	if errors.Is(err, errNotExist) {
		return nil, refusal(ReasonHardlink, "its target %.300q is not in this layer", linkname)
	}
	if err != nil {
		return nil, err
	}
	if target.typ.IsDir() || target.typ == Whiteout {
		return nil, refusal(ReasonHardlink, "its target %.300q is a %s", linkname, target.typ)
	}
	return target, nil
}
