package made

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// machinePackages are what a virtual machine has beyond a test host: a kernel,
// an init, and the tools that need a kernel of their own.
var machinePackages = []string{
	"linux-image-" + runtime.GOARCH, "systemd-sysv", "udev", "kexec-tools", "fsverity", "cryptsetup-bin", "grub-efi-amd64-signed",
}

// bootModules are loaded from the initrd; everything else finds its way by udev
// or modprobe.
var bootModules = []string{"virtio_blk", "ext4"}

// diskSize is the file's length; what is not used is a hole.
const diskSize = "6G"

// Machine is what a virtual machine boots from. The files are shared and must
// not be written to.
type Machine struct {
	// Disk is an ext4 file system in a file, of a test host's root file system
	// with systemd as init and the kernel's modules.
	Disk string
	// Kernel is Debian's, as its package has it.
	Kernel string
	// Modules are uncompressed kernel modules in the order to load them.
	Modules []string
	// Loader is Debian's signed GRUB, a UEFI program.
	Loader string
	// Busybox is a static one for the initrd.
	Busybox string
}

// VirtualMachine returns what a virtual machine boots from, made when absent
// (half a minute, 110 MB to download, 900 MB on disk). It needs root, and wraps
// fs.ErrPermission without.
func VirtualMachine(ctx context.Context) (*Machine, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("a virtual machine of %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	rootfs, err := Rootfs(ctx)
	if err != nil {
		return nil, err
	}
	parts := append([]string{"2", filepath.Base(rootfs), diskSize, machineScript}, machinePackages...)
	dir, err := ensure(ctx, "machine-"+suite+"-"+key(append(parts, bootModules...)...), func(ctx context.Context, dir string) error {
		return makeMachine(ctx, dir, rootfs)
	})
	if err != nil {
		return nil, err
	}
	m := &Machine{Disk: filepath.Join(dir, "disk"), Kernel: filepath.Join(dir, "kernel"), Loader: filepath.Join(dir, "loader"), Busybox: filepath.Join(rootfs, "usr", "bin", "busybox")}
	if m.Modules, err = filepath.Glob(filepath.Join(dir, "modules", "*.ko")); err != nil {
		return nil, err
	}
	if len(m.Modules) < len(bootModules) {
		return nil, fmt.Errorf("%s: %d kernel modules: %w", dir, len(m.Modules), fs.ErrNotExist)
	}
	return m, nil
}

// OneMachine waits until no other test runs a virtual machine, and returns what
// lets the next one go. A machine takes two processors and 3 GiB.
func OneMachine() (release func(), err error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
	}
	return lock(filepath.Join(cache, ".machine-runs.lock"))
}

// machineScript runs in a mount namespace of its own: $1 is the root file
// system, $2 the directory to fill, $3 the disk's size; the rest are modules.
// The packages are unpacked, not configured: nothing of theirs has to run
// before the machine does.
const machineScript = `
rootfs=$1 dir=$2 size=$3
shift 3
mkdir "$dir/upper" "$dir/work" "$dir/root" "$dir/modules"
mount -t overlay overlay -o "lowerdir=$rootfs,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
root=$dir/root
for deb in "$dir"/archives/*.deb; do dpkg-deb -x "$deb" "$root"; done
version=$(ls "$root/usr/lib/modules")
chroot "$root" /usr/sbin/depmod "$version"
cp "$root/boot/vmlinuz-$version" "$dir/kernel"
cp "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$dir/loader"
rm -rf "$root/usr/lib/grub" "$root/usr/share/grub"
rm -rf "$root"/boot/*
n=10
for module in $(chroot "$root" /usr/sbin/modprobe -S "$version" --show-depends -a "$@" | sed -n 's/^insmod //p' | awk '!seen[$0]++'); do
	"$root/usr/bin/busybox" xzcat "$root$module" >"$dir/modules/$n-$(basename "$module" .ko.xz).ko"
	n=$((n + 1))
done
mkdir -p "$root/etc/systemd/system"
for unit in containerd.service systemd-timesyncd.service e2scrub_reap.service e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer fstrim.timer nftables.service netfilter-persistent.service systemd-firstboot.service; do
	find "$root/etc/systemd/system" -name "$unit" -type l -delete
done
ln -sf /dev/null "$root/etc/systemd/system/getty.target"
ln -sf /dev/null "$root/etc/systemd/system/systemd-firstboot.service"
echo vm >"$root/etc/hostname"
echo "127.0.0.1 localhost vm" >"$root/etc/hosts"
echo "/dev/vda / ext4 defaults 0 1" >"$root/etc/fstab"
printf 'uninitialized\n' >"$root/etc/machine-id"
rm -f "$root/etc/resolv.conf"
echo "# a test machine asks nobody" >"$root/etc/resolv.conf"
mke2fs -q -F -t ext4 -O verity -E lazy_itable_init=1,lazy_journal_init=1 -m 0 -d "$root" "$dir/disk" "$size"
`

func makeMachine(ctx context.Context, dir, rootfs string) error {
	if err := download(ctx, dir, rootfs, machinePackages...); err != nil {
		return err
	}
	script := "set -eu\nPATH=$PATH:/usr/sbin:/sbin\n" + machineScript
	args := append([]string{"-m", "/bin/sh", "-c", script, "sh", rootfs, dir, diskSize}, bootModules...)
	if err := run(ctx, "unshare", args...); err != nil {
		return err
	}
	for _, made := range strings.Fields("upper work root archives lists status sources.list lock lock-frontend") {
		if err := os.RemoveAll(filepath.Join(dir, made)); err != nil {
			return err
		}
	}
	return nil
}
