package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// View is what a container could see of a root: a line for each path, with all
// that stat, readlink, read and getxattr tell, but for what is the machine's own
// (inode numbers, access and change times, sizes and link counts of directories,
// security labels) and parts of seconds, which no manifest keeps.
type View struct {
	Lower []string `json:"lower"` // bottom first
	Upper string   `json:"upper"`
	Work  string   `json:"work"`
}

// viewOptions are those that the shim mounts with.
const viewOptions = "index=off,redirect_dir=nofollow,metacopy=off"

func (v View) lines() (_ []string, err error) {
	dir, err := os.MkdirTemp("/run", "view-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	lower := slices.Clone(v.Lower)
	slices.Reverse(lower)
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,%s", strings.Join(lower, ":"), v.Upper, v.Work, viewOptions)
	if err := unix.Mount("overlay", dir, "overlay", 0, data); err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	defer func() {
		if uerr := unix.Unmount(dir, 0); err == nil {
			err = uerr
		}
	}()
	w := walker{root: dir, inodes: map[uint64]string{}}
	w.walk(dir)
	return w.out, nil
}

type walker struct {
	root   string
	inodes map[uint64]string
	out    []string
}

// maxEntries bounds a directory: the kernel lists some damaged ones without end.
const maxEntries = 10_000

func (w *walker) walk(path string) {
	if !w.visit(path) {
		return
	}
	names, err := list(path)
	slices.Sort(names)
	for _, name := range names {
		w.walk(filepath.Join(path, name))
	}
	if err != nil {
		// What cannot be listed is not seen, and that is seen.
		w.out = append(w.out, fmt.Sprintf("%q %v", strings.TrimPrefix(path, w.root), unwrapped(err)))
	}
}

func list(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(maxEntries)
	switch {
	case len(names) == maxEntries:
		return nil, errors.New("entries without end")
	case errors.Is(err, io.EOF):
		return nil, nil
	}
	return names, err
}

// visit describes path and says whether it is a directory.
func (w *walker) visit(path string) bool {
	rel := strings.TrimPrefix(path, w.root)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		w.out = append(w.out, fmt.Sprintf("%q %v", rel, err))
		return false
	}
	line := fmt.Sprintf("%q %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
	if rel != "" {
		line += fmt.Sprintf(" @%d", st.Mtim.Sec)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		line += fmt.Sprintf(" %d bytes %s", st.Size, content(path))
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		line += fmt.Sprintf(" -> %q %v", target, err)
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" device %x", st.Rdev)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if st.Nlink > 1 {
			first, ok := w.inodes[st.Ino]
			if !ok {
				first = rel
				w.inodes[st.Ino] = rel
			}
			line += fmt.Sprintf(" %d names of %q", st.Nlink, first)
		}
	}
	w.out = append(w.out, line+attributes(path))
	return st.Mode&unix.S_IFMT == unix.S_IFDIR
}

func content(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return unwrapped(err).Error()
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return unwrapped(err).Error()
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func attributes(path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return " attributes: " + err.Error()
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	out := ""
	for _, name := range names {
		if name == "" || name == "security.selinux" || name == "security.ima" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			n = copy(buf, err.Error())
		}
		out += fmt.Sprintf(" %s=%q", name, buf[:n])
	}
	return out
}

// unwrapped leaves out the path, which differs from view to view.
func unwrapped(err error) error {
	if p, ok := err.(*os.PathError); ok { //nolint:errorlint // the outermost is meant
		return p.Err
	}
	return err
}
