// Package vm runs whole machines: Debian's kernel under QEMU, without KVM, on a test host's root file system, with a TPM that the kernel
// has as /dev/tpm0 and /dev/tpmrm0. It is for what a namespace cannot give: a
// boot, a power cut, a kernel's command line, file systems of one's own.
//
// It is ten to twenty times slower than the machine it runs on: right or wrong
// can be tested here, speed cannot.
package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealift/sealift/integration/made"
)

// File is a file of this machine, put into the virtual one before its first
// command.
type File struct{ Source, Target string }

// Options say what a machine is made from. The zero value is a machine that
// boots Debian's kernel directly.
type Options struct {
	// CommandLine is added to the kernel's.
	CommandLine string
	// Firmware boots through UEFI, which measures into the TPM as it goes.
	Firmware bool
	// Loader boots through Debian's GRUB on an EFI system partition, as an
	// installed Debian does; it implies Firmware. VM.WriteBoot changes what is
	// there.
	Loader bool
	// Disks are the sizes in bytes of further, empty disks. Inside they are
	// /dev/vdc and so on, outside VM.ExtraDisk(0).
	Disks []int64
	Files []File
	// BootFiles is a directory inside that gets the kernel and the initrd of the
	// machine itself, as "kernel" and "initrd".
	BootFiles string
	// Modules are kernel modules that nothing inside asks for by itself.
	Modules []string
	// Systemd makes it the init, which takes a minute more. Otherwise the init
	// is a busybox that starts nothing but the guest program: no udev, no
	// journal, no units.
	Systemd bool
	// NoTPM leaves the TPM out.
	NoTPM bool
}

// bootTime is how long a boot may take, firmware and a busy machine included.
const bootTime = 8 * time.Minute

// VM is a running machine, or one that is switched off. Run and what builds on
// it are safe for concurrent use; what boots or ends the machine is not.
type VM struct {
	// Boot is the kernel's boot id.
	Boot string
	// Console is the file with all that the kernel said, over all boots.
	Console string

	o       Options
	made    *made.Machine
	dir     string // disks, console, the TPM's state
	sockets string
	release func()

	qemu, swtpm *process
	qmp         *qmp
	port        *port
}

// New makes a machine, boots it and puts its files in place. It waits while
// another test has a machine. Errors wrap fs.ErrPermission without root and
// errors.ErrUnsupported where there is nothing to boot.
func New(ctx context.Context, o Options) (_ *VM, err error) {
	o.Firmware = o.Firmware || o.Loader
	v := &VM{o: o}
	defer func() {
		if err != nil {
			err = fmt.Errorf("virtual machine: %w", errors.Join(err, v.Close()))
		}
	}()
	if v.made, err = made.VirtualMachine(ctx); err != nil {
		return nil, err
	}
	if v.release, err = made.OneMachine(); err != nil {
		return nil, err
	}
	if err := v.prepare(ctx); err != nil {
		return nil, err
	}
	if err := v.PowerOn(ctx); err != nil {
		return nil, err
	}
	return v, v.unpack(ctx)
}

// prepare makes the directories and everything a boot reads.
func (v *VM) prepare(ctx context.Context) error {
	scratch, err := made.Scratch()
	if err != nil {
		return err
	}
	// What a killed test left is nobody's: only one machine runs at a time.
	stale, err := filepath.Glob(filepath.Join(scratch, "vm-*"))
	if err != nil {
		return err
	}
	for _, d := range stale {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	if v.dir, err = os.MkdirTemp(scratch, "vm-"); err != nil {
		return err
	}
	// A socket's path may have 107 bytes, a checkout's may be longer.
	key := sha256.Sum256([]byte(scratch))
	v.sockets = filepath.Join(os.TempDir(), "sealift-vm-"+hex.EncodeToString(key[:6]))
	if err := os.RemoveAll(v.sockets); err != nil {
		return err
	}
	if err := os.Mkdir(v.sockets, 0o700); err != nil {
		return err
	}
	v.Console = filepath.Join(v.dir, "console")
	if err := os.Mkdir(filepath.Join(v.dir, "tpm"), 0o700); err != nil {
		return err
	}
	if err := v.copySparse(ctx, v.made.Disk, v.Disk()); err != nil {
		return err
	}
	if v.o.Firmware {
		if err := v.copySparse(ctx, firmwareVariables, v.variables()); err != nil {
			return err
		}
	}
	for i, size := range v.o.Disks {
		if err := emptyFile(v.ExtraDisk(i), size); err != nil {
			return err
		}
	}
	if err := writeInitrd(ctx, v.made, v.initrd()); err != nil {
		return err
	}
	if v.o.BootFiles != "" {
		v.o.Files = append(v.o.Files, File{v.made.Kernel, v.o.BootFiles + "/kernel"}, File{v.initrd(), v.o.BootFiles + "/initrd"})
	}
	if v.o.Loader {
		if err := v.makeBoot(ctx); err != nil {
			return err
		}
	}
	return writePayload(v.payload(), v.o.Files)
}

// Disk is the file that is the root disk, an ext4 file system from its first
// byte. It may be looked at, and written, while the machine is off.
func (v *VM) Disk() string { return filepath.Join(v.dir, "disk") }

// ExtraDisk is the file of one of Options.Disks.
func (v *VM) ExtraDisk(i int) string { return filepath.Join(v.dir, fmt.Sprintf("extra%d", i)) }

func (v *VM) payload() string   { return filepath.Join(v.dir, "payload") }
func (v *VM) initrd() string    { return filepath.Join(v.dir, "initrd") }
func (v *VM) variables() string { return filepath.Join(v.dir, "efivars") }

// unpack puts Options.Files in place.
func (v *VM) unpack(ctx context.Context) error {
	if len(v.o.Files) == 0 {
		return nil
	}
	_, err := v.Run(ctx, "tar", "-x", "-C", "/", "--keep-directory-symlink", "-f", "/dev/vdb")
	return err
}

// PowerOn boots a machine that is off and waits until it takes commands.
func (v *VM) PowerOn(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("boot: %w\n%s", err, v.console(2000))
		}
	}()
	if err := v.startTPM(ctx); err != nil {
		return err
	}
	if err := v.startQEMU(ctx); err != nil {
		return err
	}
	if err := v.awaitBoot(ctx); err != nil {
		return err
	}
	return v.loadModules(ctx)
}

func (v *VM) loadModules(ctx context.Context) error {
	if len(v.o.Modules) == 0 {
		return nil
	}
	_, err := v.Run(ctx, append([]string{"modprobe", "-a"}, v.o.Modules...)...)
	return err
}

// PowerCut ends the machine as if its plug were pulled: what the kernel had not
// written to the disk is lost, and so is what the TPM does not keep.
func (v *VM) PowerCut() error {
	var errs []error
	if v.qmp != nil {
		errs = append(errs, v.qmp.Close())
		v.qmp = nil
	}
	if v.port != nil {
		errs = append(errs, v.port.close())
		v.port = nil
	}
	for _, p := range []*process{v.qemu, v.swtpm} {
		if p != nil {
			p.kill()
		}
	}
	v.qemu, v.swtpm = nil, nil
	return errors.Join(errs...)
}

// Reset presses the reset button, and waits until the machine takes commands
// again.
func (v *VM) Reset(ctx context.Context) error {
	if err := v.qmp.command(ctx, "system_reset"); err != nil {
		return err
	}
	return v.awaitBoot(ctx)
}

// Reboot asks the system inside to restart in order, and waits.
func (v *VM) Reboot(ctx context.Context) error {
	if v.o.Systemd {
		return v.Restart(ctx, "systemctl", "reboot")
	}
	return v.Restart(ctx, "/run/busybox", "reboot")
}

// Restart runs a command that ends in another boot, kexec perhaps, and waits
// for that.
func (v *VM) Restart(ctx context.Context, args ...string) error {
	if _, err := v.Run(ctx, args...); err != nil && !errors.Is(err, errGone) {
		return err
	}
	return v.awaitBoot(ctx)
}

// Close switches the machine off and removes all of it. It may be called more
// than once.
func (v *VM) Close() error {
	errs := []error{v.PowerCut()}
	for _, d := range []string{v.dir, v.sockets} {
		if d != "" {
			errs = append(errs, os.RemoveAll(d))
		}
	}
	v.dir, v.sockets = "", ""
	if v.release != nil {
		v.release()
		v.release = nil
	}
	return errors.Join(errs...)
}

// console is the end of what the kernel said.
func (v *VM) console(n int) string {
	b, err := os.ReadFile(v.Console)
	if err != nil {
		return err.Error()
	}
	return strings.ToValidUTF8(string(b[max(0, len(b)-n):]), "?")
}
