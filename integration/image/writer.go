package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// epoch is every entry's modification time: images are the same on each run.
var epoch = time.Unix(1_700_000_000, 0)

// Writer writes a layer's entries. Paths are relative, without "./".
type Writer struct {
	tar *tar.Writer
	raw io.Writer
}

func newWriter(w io.Writer) *Writer { return &Writer{tar: tar.NewWriter(w), raw: w} }

// Header writes an entry as given, with the fixed time where it has none.
func (w *Writer) Header(h *tar.Header, content []byte) error {
	if h.ModTime.IsZero() {
		h.ModTime = epoch
	}
	h.Format = tar.FormatPAX
	h.Size = int64(len(content))
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	_, err := w.tar.Write(content)
	return err
}

// Dir writes a directory.
func (w *Writer) Dir(name string, mode int64) error {
	return w.Header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

// File writes a regular file.
func (w *Writer) File(name string, mode int64, content []byte) error {
	return w.Header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

// Symlink writes a symbolic link.
func (w *Writer) Symlink(name, target string) error {
	return w.Header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// Link writes a hard link to an earlier entry.
func (w *Writer) Link(name, target string) error {
	return w.Header(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, nil)
}

// Random writes a file of n bytes that do not compress, the same for each seed.
func (w *Writer) Random(name string, mode int64, n int, seed uint64) error {
	return w.File(name, mode, random(n, seed))
}

func random(n int, seed uint64) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// Sparse writes a file with holes as GNU tar does (PAX sparse format 1.0), which
// package tar can read but not write: a MiB of data, holes, and a last block.
func (w *Writer) Sparse(name string, size int64, seed uint64) error {
	dir, err := os.MkdirTemp("", "sealift-sparse-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := holey(filepath.Join(dir, "file"), size, seed); err != nil {
		return err
	}
	cmd := exec.Command("tar", "--create", "--sparse", "--format=posix", "--sparse-version=1.0",
		"--owner=root:0", "--group=root:0", "--mode=0644", "--mtime=@"+fmt.Sprint(epoch.Unix()),
		"--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--blocking-factor=1",
		"--transform=flags=r;s,^file$,"+name+",", "--directory="+dir, "file")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("tar: %s: %w", name, err)
	}
	// Two empty blocks end an archive; ours goes on.
	end := make([]byte, 1024)
	if !bytes.HasSuffix(out, end) {
		return fmt.Errorf("tar: %s: the archive has no end: %w", name, io.ErrUnexpectedEOF)
	}
	if err := w.tar.Flush(); err != nil {
		return err
	}
	_, err = w.raw.Write(out[:len(out)-len(end)])
	return err
}

func holey(file string, size int64, seed uint64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if _, err := f.WriteAt(random(1<<20, seed), 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(random(4096, seed+1), size-4096); err != nil {
		return err
	}
	return f.Sync()
}
