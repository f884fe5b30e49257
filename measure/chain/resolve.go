package chain

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// Resolve finds what the lower directories stand for on this host: a directory
// on which an EROFS blob is mounted becomes that blob. Its error is a *Problem
// for a mounted file system that is neither a plain directory nor EROFS.
func Resolve(c *Chain) error {
	for i, l := range c.Lowers {
		if l.Dir == "" {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Statfs(l.Dir, &st); err != nil {
			return fmt.Errorf("lower directory %s: %w", l.Dir, err)
		}
		if uint32(st.Type) != unix.EROFS_SUPER_MAGIC_V1 {
			continue
		}
		blob, err := mountedBlob(l.Dir)
		if err != nil {
			return err
		}
		c.Lowers[i] = Lower{Blob: blob, Mountpoint: l.Dir}
	}
	return nil
}

// mountedBlob names the file behind the EROFS that is mounted on dir.
func mountedBlob(dir string) (string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil {
		return "", fmt.Errorf("mounts: %w", err)
	}
	if len(mounts) == 0 {
		return "", &Problem{Code: "mount-type", Subject: "lower directory " + dir, Message: "lies on an EROFS that is not mounted there"}
	}
	m := mounts[len(mounts)-1] // hides the others
	if m.FSType != "erofs" || m.Root != "/" {
		return "", &Problem{Code: "mount-type", Subject: "lower directory " + dir, Message: "shows part of a file system, not a whole image"}
	}
	for o := range strings.SplitSeq(m.VFSOptions, ",") {
		if name, _, _ := strings.Cut(o, "="); !erofsOptions[name] {
			p := badOption("erofs", o)
			p.Subject = "lower directory " + dir
			return "", p
		}
	}
	blob := m.Source
	if name, ok := strings.CutPrefix(blob, "/dev/loop"); ok {
		if blob, err = loopFile(name); err != nil {
			return "", fmt.Errorf("loop device %s: %w", m.Source, err)
		}
	}
	return blob, checkDir(blob)
}

// erofsOptions are those that mountinfo lists of an image that is shown as it
// is: all of it (device= adds other files, fsoffset= begins elsewhere), with its
// attributes.
var erofsOptions = map[string]bool{"ro": true, "user_xattr": true, "acl": true, "cache_strategy": true, "dax": true, "seclabel": true}

// loopFile names the file behind a loop device, which must show all of it.
func loopFile(number string) (string, error) {
	dir := filepath.Join("/sys/block/loop"+number, "loop")
	attribute := func(name string) (string, error) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		return strings.TrimSuffix(string(b), "\n"), err
	}
	for _, name := range []string{"offset", "sizelimit"} {
		v, err := attribute(name)
		if err != nil {
			return "", err
		}
		if v != "0" {
			return "", &Problem{Code: "mount-option", Subject: "loop device /dev/loop" + number, Message: fmt.Sprintf("%s %s: it shows part of its file only", name, v)}
		}
	}
	return attribute("backing_file")
}

// Layers returns the lower layers of a read-only view, resolved and bottom
// first. Of an erofs view, whose blobs containerd would mount one by one, they
// are the blobs.
func Layers(mounts []*nodev1.Mount) ([]Lower, error) {
	var blobs []Lower
	for _, m := range mounts {
		if m.GetType() != "erofs" {
			break
		}
		c, err := parseErofs(m)
		if err != nil {
			return nil, err
		}
		blobs = append(c.Lowers, blobs...)
	}
	if len(blobs) > 0 {
		return blobs, nil
	}
	c, err := Parse(mounts)
	if err != nil {
		return nil, err
	}
	return c.Lowers, Resolve(c)
}
