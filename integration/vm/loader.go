package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Where things are on the EFI system partition (UEFI 2.10, 3.5.1.1; Debian's
// signed GRUB reads its configuration from a path of its own).
const (
	BootLoader        = "/EFI/BOOT/BOOTX64.EFI"
	BootConfiguration = "/EFI/debian/grub.cfg"
	BootKernel        = "/kernel"
	BootInitrd        = "/initrd"
)

// bootSize is that of the EFI system partition, a disk of its own.
const bootSize = 160 << 20

func (v *VM) boot() string { return filepath.Join(v.dir, "boot") }

// makeBoot makes the EFI system partition that Options.Loader asks for.
func (v *VM) makeBoot(ctx context.Context) error {
	if err := emptyFile(v.boot(), bootSize); err != nil {
		return err
	}
	if err := tool(ctx, nil, "mkfs.vfat", "-F", "32", v.boot()); err != nil {
		return err
	}
	if err := tool(ctx, nil, "mmd", "-i", v.boot(), "::/EFI", "::/EFI/BOOT", "::/EFI/debian"); err != nil {
		return err
	}
	for _, f := range []File{{v.made.Loader, BootLoader}, {v.made.Kernel, BootKernel}, {v.initrd(), BootInitrd}} {
		b, err := os.ReadFile(f.Source)
		if err != nil {
			return err
		}
		if err := v.WriteBoot(ctx, f.Target, b); err != nil {
			return err
		}
	}
	return v.SetCommandLine(ctx, v.o.CommandLine)
}

// SetCommandLine changes what the next boot through the loader adds to the
// kernel's command line. The machine must be off, or not read its loader again.
func (v *VM) SetCommandLine(ctx context.Context, more string) error {
	v.o.CommandLine = more
	return v.WriteBoot(ctx, BootConfiguration, fmt.Appendf(nil, "set timeout=0\nlinux ($root)%s %s\ninitrd ($root)%s\nboot\n",
		BootKernel, v.commandLine(), BootInitrd))
}

// ReadBoot reads a file of the EFI system partition.
func (v *VM) ReadBoot(ctx context.Context, name string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "mtype", "-i", v.boot(), "::"+name)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w\n%s", name, err, stderr.Bytes())
	}
	return out, nil
}

// WriteBoot replaces a file of the EFI system partition.
func (v *VM) WriteBoot(ctx context.Context, name string, content []byte) error {
	return tool(ctx, content, "mcopy", "-o", "-i", v.boot(), "-", "::"+name)
}

// tool runs a program of dosfstools or mtools.
func tool(ctx context.Context, stdin []byte, name string, args ...string) error {
	if _, err := exec.LookPath(name); err != nil {
		// Root's tools are not on everybody's path.
		name = filepath.Join("/usr/sbin", name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s\nhint: integration/bootstrap.sh test installs it", name, err, out)
	}
	return nil
}
