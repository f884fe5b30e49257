package tree

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
)

// maxHoles bounds the zeros that an image may claim beyond its own size.
const maxHoles = 64 << 30

// ErrImage is wrapped by errors about an image that cannot be read as EROFS.
var ErrImage = errors.New("not an EROFS image that can be measured")

// imageReader describes the content of an EROFS image as a layer.
type imageReader struct {
	ctx    context.Context
	img    fs.FS
	form   *imageForm
	budget int64
	o      Options
	files  int64
	bytes  int64
	diffs  []layer.Difference
	impl   []layer.Record
	m      *layer.Manifest
	links  map[int64][]string // paths by inode, for inodes with several links
	nlinks map[int64]int
	dirs   map[int64]bool
	buf    []byte

	refused []refusedEntry
}

type refusedEntry struct {
	rec    layer.Record
	xattrs []layer.Xattr
}

// read walks the image. Its bytes are foreign: names are checked, directories
// are entered once, and a panic of the decoder is an error of the image.
func (r *imageReader) read(f io.ReaderAt, size int64) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: its decoder: %v", ErrImage, p)
		}
	}()
	if r.img, err = erofs.Open(f); err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	if err := r.openForm(f, size); err != nil {
		return err
	}
	r.budget = size + maxHoles
	r.m = &layer.Manifest{}
	r.links, r.nlinks, r.dirs = map[int64][]string{}, map[int64]int{}, map[int64]bool{}
	r.buf = make([]byte, bufferSize)
	if err := r.root(); err != nil {
		return err
	}
	if err := r.dir("."); err != nil {
		return err
	}
	r.m.Sort()
	r.group()
	return nil
}

func (r *imageReader) root() error {
	info, err := fs.Stat(r.img, ".")
	if err != nil {
		return fmt.Errorf("%w: its root: %w", ErrImage, err)
	}
	st, ok := info.Sys().(*erofs.Stat)
	if !ok || !info.IsDir() {
		return fmt.Errorf("%w: its root is no directory", ErrImage)
	}
	r.dirs[st.Ino] = true
	if err := r.form.inode(st.Ino, true); err != nil {
		return fmt.Errorf("%w: its root: %w", ErrImage, err)
	}
	withoutOrigin(st.Xattrs)
	a := judgeAttributes("", st.Xattrs, true, &r.o).rootOnly()
	r.refuse(layer.Record{Type: layer.Dir}, a)
	if a.opaque {
		r.m.Records = append(r.m.Records, layer.Record{Type: layer.Implied, Opaque: true})
	}
	return nil
}

func (r *imageReader) dir(path string) error {
	entries, err := fs.ReadDir(r.img, path)
	if err != nil {
		return fmt.Errorf("%w: directory %.300q: %w", ErrImage, path, err)
	}
	for _, e := range entries {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		p := e.Name()
		if path != "." {
			p = path + "/" + p
		}
		if err := r.entry(p, e); err != nil {
			return err
		}
	}
	return nil
}

func (r *imageReader) entry(path string, e fs.DirEntry) error {
	if strings.Contains(e.Name(), "/") {
		return fmt.Errorf("%w: entry %.300q: a slash in its name", ErrImage, path)
	}
	if err := layer.CheckPath(path); err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	if len(r.m.Records) >= layer.MaxRecords {
		return fmt.Errorf("%w: more than %d entries", ErrImage, layer.MaxRecords)
	}
	info, err := e.Info()
	if err != nil {
		return fmt.Errorf("%w: entry %.300q: %w", ErrImage, path, err)
	}
	st, ok := info.Sys().(*erofs.Stat)
	// The kernel goes by the inode's type, some readers by the directory's copy
	// of it: they must agree.
	if !ok || st.Mode.Type() != e.Type() {
		return fmt.Errorf("%w: entry %.300q: directory and inode disagree about its type", ErrImage, path)
	}
	if err := r.form.inode(st.Ino, e.IsDir()); err != nil {
		return fmt.Errorf("%w: entry %.300q: %w", ErrImage, path, err)
	}
	rec, diff := r.record(path, st)
	if diff != nil {
		r.diffs = append(r.diffs, *diff)
		return nil
	}
	switch rec.Type {
	case layer.Regular:
		err = r.content(&rec)
	case layer.Symlink:
		rec.Target, err = r.target(path, st.Size)
	}
	if err != nil {
		return err
	}
	if rec.Type != layer.Dir && rec.Type != layer.Whiteout && st.Nlink > 1 {
		r.links[st.Ino] = append(r.links[st.Ino], path)
		r.nlinks[st.Ino] = st.Nlink
	}
	r.m.Records = append(r.m.Records, rec)
	if rec.Type != layer.Dir {
		return nil
	}
	if r.dirs[st.Ino] {
		return fmt.Errorf("%w: directory %.300q is in two places", ErrImage, path)
	}
	r.dirs[st.Ino] = true
	return r.dir(path)
}

func (r *imageReader) record(path string, st *erofs.Stat) (layer.Record, *layer.Difference) {
	mode := uint16(st.Mode.Perm())
	for bit, to := range map[fs.FileMode]uint16{fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX} {
		if st.Mode&bit != 0 {
			mode |= to
		}
	}
	rec := layer.Record{Path: path, Mode: mode, UID: st.UID, GID: st.GID, MTime: int64(st.Mtime)}
	switch t := st.Mode.Type(); t {
	case 0:
		rec.Type, rec.Size = layer.Regular, st.Size
	case fs.ModeDir:
		rec.Type = layer.Dir
	case fs.ModeSymlink:
		rec.Type, rec.Mode = layer.Symlink, 0o777
	case fs.ModeNamedPipe:
		rec.Type = layer.FIFO
	case fs.ModeSocket:
		rec.Type = layer.Socket
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		rec.Type = layer.Block
		if t&fs.ModeCharDevice != 0 {
			rec.Type = layer.Char
		}
		// EROFS keeps what the kernel calls new_encode_dev.
		rec.Major, rec.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
		if rec.Type == layer.Char && rec.Major == 0 && rec.Minor == 0 {
			return layer.Record{Path: path, Type: layer.Whiteout}, nil
		}
	default:
		return rec, &layer.Difference{Path: path, Kind: layer.KindType, Found: t.String()}
	}
	if rec.Type == layer.Dir {
		withoutOrigin(st.Xattrs)
	}
	a := judgeAttributes(path, st.Xattrs, rec.Type == layer.Dir, &r.o)
	rec.Opaque, rec.Xattrs = a.opaque, a.kept
	r.refuse(rec, a)
	return rec, nil
}

// withoutOrigin drops the empty mark that mkfs.erofs puts on directories that
// hold whiteouts. It names no other file; overlayfs takes it to mean that there
// may be whiteouts, and hides them also where nothing below is covered (Linux,
// fs/overlayfs/inode.c, ovl_get_inode). One with a value is refused: it would.
func withoutOrigin(xattrs map[string]string) {
	const origin = overlayTrusted + "origin"
	if v, ok := xattrs[origin]; ok && v == "" {
		delete(xattrs, origin)
	}
}

// refuse remembers what no layer may have.
func (r *imageReader) refuse(rec layer.Record, a attributes) {
	r.diffs = append(r.diffs, a.diffs...)
	if len(a.refused) > 0 {
		r.refused = append(r.refused, refusedEntry{rec, a.refused})
	}
}

func (r *imageReader) content(rec *layer.Record) error {
	if r.budget -= rec.Size; rec.Size < 0 || r.budget < 0 {
		return fmt.Errorf("%w: entry %.300q: it claims %d bytes", ErrImage, rec.Path, rec.Size)
	}
	f, err := r.img.Open(rec.Path)
	if err != nil {
		return fmt.Errorf("%w: entry %.300q: %w", ErrImage, rec.Path, err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, onlyReader{f, r.ctx}, r.buf)
	if err != nil {
		return fmt.Errorf("%w: entry %.300q: %w", ErrImage, rec.Path, err)
	}
	if n != rec.Size {
		return fmt.Errorf("%w: entry %.300q: %d bytes of %d", ErrImage, rec.Path, n, rec.Size)
	}
	h.Sum(rec.Content[:0])
	r.files++
	r.bytes += n
	return nil
}

// onlyReader hides other methods, so that the buffer is used and ctx is asked.
type onlyReader struct {
	r   io.Reader
	ctx context.Context
}

func (o onlyReader) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	return o.r.Read(p)
}

func (r *imageReader) target(path string, size int64) (string, error) {
	if size <= 0 || size > layer.MaxPath {
		return "", fmt.Errorf("%w: link %.300q: a target of %d bytes", ErrImage, path, size)
	}
	target, err := fs.ReadLink(r.img, path)
	if err != nil {
		return "", fmt.Errorf("%w: link %.300q: %w", ErrImage, path, err)
	}
	return target, nil
}

// group names hard-link groups, as groupLinks does for directories.
func (r *imageReader) group() {
	for ino, paths := range r.links {
		first := slices.Min(paths)
		if outside := r.nlinks[ino] - len(paths); outside != 0 && r.o.Want != nil {
			r.diffs = append(r.diffs, layer.Difference{Path: first, Kind: layer.KindHardlink,
				Wanted: fmt.Sprintf("%d names", len(paths)), Found: fmt.Sprintf("a link count of %d", r.nlinks[ino])})
		}
		if len(paths) < 2 {
			continue
		}
		for _, p := range paths {
			r.m.Lookup(p).Group = first
		}
	}
}

// result compares what was read with the reference.
func (r *imageReader) result() (*Result, error) {
	implied := map[string]bool{}
	if r.o.Want != nil {
		implied = r.o.Want.Implied()
	}
	for i := range r.m.Records {
		if rec := &r.m.Records[i]; rec.Type == layer.Dir && implied[rec.Path] {
			r.impl = append(r.impl, *rec)
			*rec = layer.Record{Path: rec.Path, Type: layer.Implied, Opaque: rec.Opaque}
		}
	}
	if err := r.m.Validate(); err != nil && len(r.diffs) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	if r.o.Want != nil {
		r.diffs = append(r.diffs, layer.Compare(r.o.Want, r.m)...)
	}
	for _, e := range r.refused {
		spoil(r.m, e.rec, e.xattrs)
	}
	slices.SortStableFunc(r.diffs, func(a, b layer.Difference) int { return strings.Compare(a.Path, b.Path) })
	return &Result{Manifest: r.m, Differences: r.diffs, Implied: r.impl, Files: r.files, Bytes: r.bytes}, nil
}

// MeasureBlob measures one EROFS image file, such as a layer blob of the erofs
// snapshotter, and compares its content with o.Want. The binding is of class
// verity where the file has an fs-verity digest, else blob while a read lease on
// the file is held, else none. The caller must Close the binding: it keeps the
// file open, and whoever wants to write to it waiting.
func MeasureBlob(ctx context.Context, path string, o Options) (*Result, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := bindBlob(f, path)
	if err != nil {
		return nil, fmt.Errorf("measuring %s: %w", path, err)
	}
	r := &imageReader{ctx: ctx, o: o}
	err = r.read(f, int64(b.size()))
	if err == nil {
		var res *Result
		if res, err = r.result(); err == nil {
			res.Binding = b
			err = b.settleBlob(res)
			if err == nil {
				return res, nil
			}
		}
	}
	return nil, errors.Join(fmt.Errorf("measuring %s: %w", path, err), b.Close())
}
