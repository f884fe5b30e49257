package chain

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is what can be seen of a directory that becomes the root of a container,
// or part of it, beside its entries. A layer's tar says nothing about it
// (containerd's unpack ignores the entry "./"), so there is one right answer:
// what the snapshotters make.
type Root struct {
	// Dev and Ino identify the directory.
	Dev, Ino uint64
	// Empty says that it has no entries.
	Empty bool
	// FirstEntry is one entry of a directory that is not empty.
	FirstEntry string
}

// Owner owns a root directory: 0:0, or what root is in a user namespace.
type Owner struct{ UID, GID uint32 }

// rootMode is what every snapshotter gives the directories it makes, imageMode
// what mkfs.erofs gives the root of an image whose tar does not name it.
const rootMode, imageMode = 0o755, 0o777

// ExamineRoot opens dir and checks its attributes. Its error is a *Problem when
// the attributes are not those of a fresh root of owner.
func ExamineRoot(dir string, owner Owner) (Root, error) { return examineRoot(dir, owner, false) }

// ExamineImageRoot does so with the root of a mounted EROFS image.
func ExamineImageRoot(dir string) (Root, error) { return examineRoot(dir, Owner{}, true) }

func examineRoot(dir string, owner Owner, image bool) (Root, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Root{}, fmt.Errorf("root directory %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Root{}, fmt.Errorf("root directory %s: %w", dir, err)
	}
	r := Root{Dev: uint64(st.Dev), Ino: st.Ino}
	if mode := st.Mode & 0o7777; mode != rootMode && !(image && mode == imageMode) || st.Uid != owner.UID || st.Gid != owner.GID {
		return r, &Problem{Code: "root-attributes", Subject: "root directory " + dir,
			Message: fmt.Sprintf("has mode %04o owner %d:%d, wanted %04o %d:%d", mode, st.Uid, st.Gid, rootMode, owner.UID, owner.GID),
			Hint:    "recreate the snapshot: remove the container and its image, and pull again"}
	}
	if x, err := foreignXattr(fd); err != nil {
		return r, fmt.Errorf("root directory %s: %w", dir, err)
	} else if x != "" {
		return r, &Problem{Code: "root-attributes", Subject: "root directory " + dir,
			Message: fmt.Sprintf("has the extended attribute %s", x)}
	}
	names, err := f.Readdirnames(1)
	if err != nil && !errors.Is(err, io.EOF) {
		return r, fmt.Errorf("root directory %s: %w", dir, err)
	}
	r.Empty = len(names) == 0
	if !r.Empty {
		r.FirstEntry = names[0]
	}
	return r, nil
}

// foreignXattr names an attribute that would change what a container sees.
// Those that overlayfs writes by itself for its own book-keeping, and labels,
// do not.
func foreignXattr(fd int) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Flistxattr(fd, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		switch name {
		case "", "security.selinux", "security.ima", "security.evm":
		case "trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid":
		case "user.overlay.origin", "user.overlay.impure", "user.overlay.uuid":
		default:
			return name, nil
		}
	}
	return "", nil
}
