package tamper

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/sealift/sealift/integration/image"
)

// Erofs is the name of the snapshotter that keeps each layer as an image file,
// and ErofsConfig makes containerd unpack to it.
const (
	Erofs       = "erofs"
	ErofsConfig = `
[plugins."io.containerd.service.v1.diff-service"]
default = ["erofs", "walking"]
[plugins."io.containerd.snapshotter.v1.erofs"]
`
)

// Files are the layers of an image that the erofs snapshotter unpacked, and what
// is needed to change and to mount them.
type Files struct {
	s *Stage
	// Inside are the files' paths inside, bottom first.
	Inside []string
	dir    string
}

// Files returns the image files of a namespace, with a copy of each and of its
// content beside, to change them from.
func (s *Stage) Files(ctx context.Context, ns string, img *image.Image) (*Files, error) {
	mounts, err := s.View(ctx, ns, Erofs, img)
	if err != nil {
		return nil, err
	}
	f := &Files{s: s, dir: "/srv/files/" + ns}
	for _, m := range mounts {
		if m.Type == "erofs" {
			f.Inside = append(f.Inside, m.Source)
		}
	}
	slices.Reverse(f.Inside)
	if err := f.Mount(""); err != nil {
		return nil, err
	}
	script := "mkdir -p $1/content $1/pristine; cd $1\n"
	for i, file := range f.Inside {
		script += fmt.Sprintf("cp -aT mounted/%[1]d content/%[1]d; cp -a %[2]s pristine/%[1]d\n", i, file)
	}
	return f, errors.Join(f.sh(ctx, script), f.Unmount())
}

func (f *Files) sh(ctx context.Context, script string) error {
	_, err := f.s.Node.Run(ctx, "sh", "-euc", script, "sh", f.dir)
	return err
}

// Paths are the files as the machine reaches them.
func (f *Files) Paths() (out []string) {
	for _, p := range f.Inside {
		out = append(out, f.s.Inside(p))
	}
	return out
}

// Restore puts copies of the original files in place, which nobody measured yet.
func (f *Files) Restore(ctx context.Context) error {
	script := "cd $1\n"
	for i, file := range f.Inside {
		script += fmt.Sprintf("cp -a pristine/%d %[2]s.new; rm -rf %[2]s; mv %[2]s.new %[2]s\n", i, file)
	}
	return f.sh(ctx, script)
}

// Repack changes the content of the layers, bottom first, and puts new images of
// them in place. A layer that change leaves out of its answer stays as it is.
func (f *Files) Repack(ctx context.Context, change func(layers []string) error) error {
	if err := f.sh(ctx, "cd $1; rm -rf changed; cp -a content changed"); err != nil {
		return err
	}
	var dirs []string
	for i := range f.Inside {
		dirs = append(dirs, f.s.Inside(fmt.Sprintf("%s/changed/%d", f.dir, i)))
	}
	if err := change(dirs); err != nil {
		return err
	}
	script := "cd $1\n"
	for i, file := range f.Inside {
		script += fmt.Sprintf("mkfs.erofs --quiet -b4096 -Enoinline_data %[2]s.new changed/%[1]d >&2; mv -f %[2]s.new %[2]s\n", i, file)
	}
	return f.sh(ctx, script)
}

// Mount mounts the files that are there, each on its directory.
func (f *Files) Mount(options string) error {
	return f.s.probe.Mount(f.Inside, f.dir+"/mounted", options)
}

// Unmount ends that.
func (f *Files) Unmount() error { return f.s.probe.Mount(nil, f.dir+"/mounted", "") }

// Mounted are the directories, bottom first.
func (f *Files) Mounted() (out []string) {
	for i := range f.Inside {
		out = append(out, fmt.Sprintf("%s/mounted/%d", f.dir, i))
	}
	return out
}

// Edit changes a layer's file in place, or by putting a changed copy of it in its
// place, which then has the old one's times.
func (f *Files) Edit(ctx context.Context, layer int, inPlace bool, edit func([]byte) []byte) error {
	path := f.s.Inside(f.Inside[layer])
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := edit(slices.Clone(b))
	if bytes.Equal(changed, b) {
		return fmt.Errorf("%s: the edit changes nothing", path)
	}
	if inPlace {
		return rewriteFile(path, changed)
	}
	if err := os.WriteFile(path+".new", changed, 0o644); err != nil {
		return err
	}
	return f.sh(ctx, strings.ReplaceAll("touch -r FILE FILE.new; mv -f FILE.new FILE", "FILE", f.Inside[layer]))
}

// rewriteFile writes what differs, without truncating first: whoever has the file
// mounted would lose it.
func rewriteFile(path string, b []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(b, 0)
	return errors.Join(err, file.Truncate(int64(len(b))), file.Close())
}

// Superblock is where an EROFS image has it, in its first block of 4096 bytes
// (fs/erofs/erofs_fs.h).
const Superblock, checksumAt, firstBlock = 1024, 1024 + 4, 4096

// Seal makes the checksum of the first block right (fs/erofs/super.c,
// erofs_superblock_csum_verify), as whoever changes metadata would.
func Seal(b []byte) []byte {
	if len(b) < firstBlock {
		return b
	}
	clear(b[checksumAt : checksumAt+4])
	sum := ^crc32.Checksum(b[Superblock:firstBlock], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[checksumAt:], sum)
	return b
}

// Forget makes a container one that never started to the agent.
func (s *Stage) Forget(ns, id string) error {
	err := os.Remove(s.Inside(fmt.Sprintf("/var/lib/sealift/containers/%s/%s.json", ns, id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
