package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sealift/sealift/integration/made"
)

// portName is the virtio port's name inside.
const portName = "sealift.test"

// initScript makes the disk the root, with everything mounted that systemd would
// mount, and hands over to $init. The guest program comes along in /run.
const initScript = `#!/busybox sh
busybox=/busybox
for dir in proc sys dev root; do $busybox mkdir -p /$dir; done
$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
for module in /modules/*; do $busybox insmod $module; done
until [ -b /dev/vda ]; do $busybox sleep 0.1; done
$busybox mount -t ext4 /dev/vda /root || exec $busybox sh
$busybox mount -t tmpfs -o mode=755,nosuid,nodev run /root/run
$busybox cp -r /guest/. $busybox /root/run/
read -r line </proc/cmdline
case "$line" in
*sealift.init=systemd*)
	$busybox umount /sys /proc
	exec $busybox switch_root /root /lib/systemd/systemd ;;
esac
$busybox mount -t tmpfs -o mode=1777 tmp /root/tmp
for dir in proc sys dev; do $busybox mount -o move /$dir /root/$dir; done
$busybox mkdir -p /root/dev/pts /root/dev/shm /root/dev/mqueue /root/run/lock
$busybox mount -t devpts -o mode=620,ptmxmode=666 pts /root/dev/pts
$busybox mount -t tmpfs -o mode=1777 shm /root/dev/shm
$busybox mount -t mqueue mqueue /root/dev/mqueue
$busybox mount -t cgroup2 cgroup /root/sys/fs/cgroup
$busybox mount -t securityfs security /root/sys/kernel/security
$busybox mount -t debugfs debug /root/sys/kernel/debug
$busybox mount -t bpf bpf /root/sys/fs/bpf
$busybox ln -s /proc/self/fd /root/dev/fd
$busybox hostname vm
$busybox ifconfig lo up
echo "::respawn:/run/vmguest ` + portName + `
::shutdown:/run/busybox umount -a -r" >/root/etc/inittab
exec $busybox switch_root /root /run/busybox init
`

const guestUnit = `[Unit]
Description=Commands from the tests
DefaultDependencies=no
After=basic.target

[Service]
ExecStart=/run/vmguest ` + portName + `
Restart=always
RestartSec=100ms
LimitNOFILE=1048576
KillMode=process
OOMScoreAdjust=-1000
`

// writeInitrd writes the initrd of a machine to a file.
func writeInitrd(ctx context.Context, m *made.Machine, to string) error {
	guest, err := made.Tool(ctx, "vmguest")
	if err != nil {
		return err
	}
	var a cpio
	a.dir("guest")
	a.dir("guest/systemd")
	a.dir("guest/systemd/system")
	a.dir("guest/systemd/system/multi-user.target.wants")
	a.dir("modules")
	a.file("init", 0o755, []byte(initScript))
	a.file("guest/systemd/system/vmguest.service", 0o644, []byte(guestUnit))
	a.symlink("guest/systemd/system/multi-user.target.wants/vmguest.service", "../vmguest.service")
	for name, source := range map[string]string{"busybox": m.Busybox, "guest/vmguest": guest} {
		if err := a.copy(name, source); err != nil {
			return err
		}
	}
	for _, module := range m.Modules {
		if err := a.copy("modules/"+filepath.Base(module), module); err != nil {
			return err
		}
	}
	return os.WriteFile(to, a.end(), 0o644)
}

// cpio is an archive in the "newc" form (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	b     bytes.Buffer
	inode int
}

func (c *cpio) entry(name string, mode int, content []byte) {
	c.inode++
	fmt.Fprintf(&c.b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	c.b.WriteString(name + "\x00")
	c.pad()
	c.b.Write(content)
	c.pad()
}

func (c *cpio) pad() {
	for c.b.Len()%4 != 0 {
		c.b.WriteByte(0)
	}
}

func (c *cpio) dir(name string)                            { c.entry(name, 0o040755, nil) }
func (c *cpio) symlink(name, target string)                { c.entry(name, 0o120777, []byte(target)) }
func (c *cpio) file(name string, mode int, content []byte) { c.entry(name, 0o100000|mode, content) }

func (c *cpio) copy(name, source string) error {
	b, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	c.file(name, 0o755, b)
	return nil
}

func (c *cpio) end() []byte {
	c.entry("TRAILER!!!", 0, nil)
	return c.b.Bytes()
}
