package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/internal/thread"
)

// oldest is the first kernel Sealift is meant for: openat2, pidfd and overlay
// options are there, and Debian 12 and RHEL 9 are not older.
const oldestMajor, oldestMinor = 5, 14

func kernel(context.Context, Paths) []Result {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return one("kernel", Unknown, err.Error(), "")
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return one("kernel", Unknown, fmt.Sprintf("release %q", release), "")
	}
	detail := fmt.Sprintf("%s, %s", release, runtime.GOARCH)
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return one("kernel", Note, detail, fmt.Sprintf("older than %d.%d, on which nothing is tested", oldestMajor, oldestMinor))
	}
	return one("kernel", Good, detail, "")
}

func cgroups(context.Context, Paths) []Result {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return one("cgroup", Missing, err.Error(), "mount cgroup2 on /sys/fs/cgroup")
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return one("cgroup", Good, "v2", "")
	}
	if err := unix.Statfs("/sys/fs/cgroup/unified", &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return one("cgroup", Good, "v1 with a hybrid v2 tree", "")
	}
	return one("cgroup", Note, "v1", "starts are measured as anywhere; what later versions hold at run time needs v2: boot with systemd.unified_cgroup_hierarchy=1")
}

// overlay mounts one as containers have theirs, with the options that keep
// attributes of a layer's directory from changing what a container sees.
func overlay(context.Context, Paths) []Result {
	err := inMountNamespace(func(dir string) error {
		for _, d := range []string{"lower", "upper", "work", "merged"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
				return err
			}
		}
		o := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,redirect_dir=nofollow,metacopy=off", dir)
		return unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", 0, o)
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return one("overlay", Unknown, "needs root to try", "run as root")
	case err != nil:
		return one("overlay", Missing, err.Error(), "modprobe overlay; the overlayfs snapshotter needs redirect_dir=nofollow and metacopy=off to be accepted")
	}
	return one("overlay", Good, "mounts with redirect_dir=nofollow,metacopy=off", "")
}

// erofs asks the kernel to mount a file that is no EROFS image: its answer tells
// how far it got. The file must be on a file system that pages can be read from
// (a tmpfs is none).
func erofs(_ context.Context, p Paths) []Result {
	file, _, err := someFile(p)
	if err != nil {
		return one("erofs", Unknown, err.Error(), "")
	}
	defer file.Close()
	err = inMountNamespace(func(dir string) error {
		return unix.Mount(file.Name(), dir, "erofs", unix.MS_RDONLY, "")
	})
	const gain = "binding classes blob and verity come with the erofs snapshotter"
	switch {
	case errors.Is(err, fs.ErrPermission):
		return one("erofs", Unknown, "needs root to try", "run as root")
	case errors.Is(err, unix.EINVAL):
		return one("erofs", Good, "file-backed", "")
	case errors.Is(err, unix.ENOTBLK):
		return one("erofs", Note, "only on block devices", "file-backed EROFS needs Linux 6.12; "+gain)
	case errors.Is(err, unix.ENODEV):
		return one("erofs", Absent, "not in this kernel", "modprobe erofs; "+gain)
	}
	return one("erofs", Unknown, fmt.Sprint(err), "")
}

// inMountNamespace runs f with a fresh tmpfs in a mount namespace that ends with
// it.
func inMountNamespace(f func(dir string) error) error {
	return thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
		dir := os.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			return os.NewSyscallError("mount", err)
		}
		return f(dir)
	})
}

// fsverity asks for the verity digest of a file that has none: the kernel says
// whether there could be one.
func fsverity(_ context.Context, p Paths) []Result {
	const gain = "binding class verity needs fs-verity or dm-verity beneath the snapshotter"
	file, dir, err := someFile(p)
	if err != nil {
		return one("fs-verity", Unknown, err.Error(), "")
	}
	defer file.Close()
	request := struct{ algorithm, size uint16 }{}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), unix.FS_IOC_MEASURE_VERITY, uintptr(unsafe.Pointer(&request)))
	switch errno {
	case unix.ENODATA, unix.EOVERFLOW, 0:
		return one("fs-verity", Good, "on "+dir, "")
	case unix.EOPNOTSUPP, unix.ENOTTY:
		return one("fs-verity", Absent, "not on "+dir, gain+" (ext4: tune2fs -O verity DEVICE)")
	}
	return one("fs-verity", Unknown, errno.Error(), gain)
}

// someFile opens a regular file of the file system that containerd keeps its
// content on, or of the one it would.
func someFile(p Paths) (*os.File, string, error) {
	for _, f := range []string{"/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db", filepath.Join(p.StateDir, "known-executables"), "/etc/os-release", "/etc/hostname"} {
		if file, err := os.Open(f); err == nil {
			return file, filepath.Dir(f), nil
		}
	}
	return nil, "", errors.New("no file to ask about")
}

func ima(context.Context, Paths) []Result {
	const gain = "that sealiftd is the build it says to be is self-reported, unless IMA or a verity root measured it before"
	_, err := os.Stat("/sys/kernel/security/ima")
	switch {
	case errors.Is(err, fs.ErrNotExist) && !mounted("/sys/kernel/security"):
		return one("ima", Unknown, "securityfs is not mounted", "mount -t securityfs none /sys/kernel/security")
	case err != nil:
		return one("ima", Absent, "not active", gain)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err == nil && strings.Contains(string(line), "ima_policy=") {
		return one("ima", Good, "with a policy on the kernel's command line", "")
	}
	return one("ima", Note, "active, without a policy on the kernel's command line", gain)
}

func mounted(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}
