package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// enterRoot makes the host's file tree and makes it the root. It is pivot_root
// and not chroot: CRIU looks for every mount's parent.
func enterRoot(p plan) error {
	root := filepath.Join(p.Dir, "root")
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", p.Rootfs, filepath.Join(p.Dir, "upper"), filepath.Join(p.Dir, "work"))
	t := tree{root: root}
	t.mount("overlay", "/", "overlay", 0, options)
	for _, dir := range plain {
		t.plain(filepath.Join(p.Dir, "plain"), dir)
	}
	t.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	t.mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	t.cgroups(p.Cgroups)
	t.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	t.mkdir("/run/lock")
	t.mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	t.devices()
	t.optional("bpf", "/sys/fs/bpf", "bpf")
	t.optional("tracefs", "/sys/kernel/tracing", "tracefs")
	t.optional("securityfs", "/sys/kernel/security", "securityfs")
	for _, b := range p.Binds {
		t.bind(b)
	}
	t.write("/etc/machine-id", p.MachineID+"\n")
	t.write("/etc/hostname", p.Name+"\n")
	t.write("/etc/hosts", "127.0.0.1 localhost "+p.Name+"\n")
	t.write("/etc/resolv.conf", "# a test host asks nobody\n")
	if t.err != nil {
		return t.err
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	// The old root is put on top of the new one and taken off (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("the old root: %w", err)
	}
	return unix.Chdir("/")
}

// tree makes mounts and files below root until the first error.
type tree struct {
	root string
	err  error
}

func (t *tree) do(what string, err error) {
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (t *tree) mkdir(dir string) {
	if t.err == nil {
		t.do(dir, os.MkdirAll(filepath.Join(t.root, dir), 0o755))
	}
}

func (t *tree) mount(source, target, fstype string, flags uintptr, data string) {
	t.mkdir(target)
	if t.err == nil {
		t.do("mount "+fstype+" "+target, unix.Mount(source, filepath.Join(t.root, target), fstype, flags, data))
	}
}

// optional mounts what not every kernel has.
func (t *tree) optional(source, target, fstype string) {
	if _, err := os.Stat(filepath.Join(t.root, target)); t.err != nil || err != nil {
		return
	}
	err := unix.Mount(source, filepath.Join(t.root, target), fstype, 0, "")
	if !errors.Is(err, unix.ENODEV) {
		t.do("mount "+fstype, err)
	}
}

func (t *tree) plain(store, dir string) {
	source := filepath.Join(store, strings.ReplaceAll(dir, "/", "_"))
	if t.err == nil {
		t.do(dir, os.MkdirAll(source, 0o755))
	}
	t.bind(Bind{Source: source, Target: dir, Writable: true})
}

func (t *tree) bind(b Bind) {
	if t.err != nil {
		return
	}
	target := filepath.Join(t.root, b.Target)
	st, err := os.Stat(b.Source)
	t.do("bind", err)
	if t.err != nil {
		return
	}
	if st.IsDir() {
		t.mkdir(b.Target)
	} else {
		t.mkdir(filepath.Dir(b.Target))
		f, err := os.OpenFile(target, os.O_CREATE, 0o644)
		t.do("bind", err)
		f.Close()
	}
	t.do("bind "+b.Source, unix.Mount(b.Source, target, "", unix.MS_BIND|unix.MS_REC, ""))
	if !b.Writable && t.err == nil {
		t.do("bind "+b.Source, unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	}
}

func (t *tree) write(file, content string) {
	if t.err == nil {
		t.do(file, os.WriteFile(filepath.Join(t.root, file), []byte(content), 0o644))
	}
}

// cgroups mounts each of the machine's hierarchies where the machine has it;
// the cgroup namespace makes the host's own group its root.
func (t *tree) cgroups(all []cgroup) {
	if len(all) > 1 || all[0].Point != cgroupRoot {
		t.mount("tmpfs", cgroupRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755")
	}
	for _, c := range all {
		t.mount(c.Type, c.Point, c.Type, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, c.Options)
	}
}

// devices gives the host a /dev of its own. What it does not have on purpose is
// the machine's TPM: no test may extend that.
func (t *tree) devices() {
	t.mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755")
	old := unix.Umask(0)
	defer unix.Umask(old)
	for name, number := range map[string][2]uint32{
		"null": {1, 3}, "zero": {1, 5}, "full": {1, 7}, "random": {1, 8}, "urandom": {1, 9},
		"kmsg": {1, 11}, "tty": {5, 0}, "console": {5, 1}, "fuse": {10, 229}, "loop-control": {10, 237},
	} {
		if t.err == nil {
			t.do(name, unix.Mknod(filepath.Join(t.root, "dev", name), unix.S_IFCHR|0o666, int(unix.Mkdev(number[0], number[1]))))
		}
	}
	for _, name := range []string{"net/tun", "userfaultfd"} {
		if _, err := os.Stat("/dev/" + name); err == nil {
			t.bind(Bind{Source: "/dev/" + name, Target: "/dev/" + name, Writable: true})
		}
	}
	for i := range uint32(64) {
		if t.err == nil {
			t.do("loop", unix.Mknod(filepath.Join(t.root, fmt.Sprintf("dev/loop%d", i)), unix.S_IFBLK|0o660, int(unix.Mkdev(7, i))))
		}
	}
	for link, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if t.err == nil {
			t.do(link, os.Symlink(target, filepath.Join(t.root, "dev", link)))
		}
	}
	t.mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
	t.mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	t.mount("mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}
