package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Debian's ovmf package has them here; the variables are copied for each
// machine.
const (
	firmwareCode      = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVariables = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

const memory = "3072" // MiB

// commandLine is what every kernel is told.
const commandLine = "console=ttyS0 root=/dev/vda rw loglevel=4 panic=-1 random.trust_cpu=on " +
	"systemd.unit=multi-user.target systemd.show_status=no"

func (v *VM) commandLine() string {
	all := commandLine
	if v.o.Systemd {
		all += " sealift.init=systemd"
	}
	return strings.TrimSpace(all + " " + v.o.CommandLine)
}

func (v *VM) startQEMU(ctx context.Context) error {
	qmpSocket, portSocket := filepath.Join(v.sockets, "qmp"), filepath.Join(v.sockets, "port")
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", memory,
		"-chardev", "file,id=console,append=on,path=" + v.Console, "-serial", "chardev:console",
		"-qmp", "unix:" + qmpSocket + ",server=on,wait=off",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=port,server=on,wait=off,path=" + portSocket,
		"-device", "virtserialport,chardev=port,name=" + portName,
	}
	if v.o.Loader {
		args = append(args, "-drive", "if=none,format=raw,id=boot,file="+v.boot(), "-device", "virtio-blk-pci,drive=boot,serial=boot,bootindex=1,addr=0x1e")
	} else {
		args = append(args, "-kernel", v.made.Kernel, "-initrd", v.initrd(), "-append", v.commandLine())
	}
	args = append(args, drive("root", v.Disk())...)
	args = append(args, drive("payload", v.payload(), "readonly=on")...)
	for i := range v.o.Disks {
		args = append(args, drive(fmt.Sprintf("extra%d", i), v.ExtraDisk(i))...)
	}
	if v.o.Firmware {
		args = append(args, "-machine", "q35",
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+firmwareCode,
			"-drive", "if=pflash,unit=1,format=raw,file="+v.variables())
	} else {
		args = append(args, "-machine", "pc")
	}
	if !v.o.NoTPM {
		args = append(args, "-chardev", "socket,id=tpm,path="+v.tpmSocket(), "-tpmdev", "emulator,id=tpm0,chardev=tpm",
			"-device", "tpm-crb,tpmdev=tpm0")
	}
	var err error
	if v.qemu, err = start("qemu-system-x86_64", args...); err != nil {
		return err
	}
	if v.qmp, err = dialQMP(ctx, v.qemu, qmpSocket); err != nil {
		return err
	}
	c, err := dial(ctx, v.qemu, portSocket)
	if err != nil {
		return err
	}
	v.port = newPort(c)
	return nil
}

// drive is a virtio disk that a power cut leaves as the guest wrote it.
func drive(name, file string, more ...string) []string {
	d := "if=none,format=raw,cache=writeback,id=" + name + ",file=" + file
	for _, m := range more {
		d += "," + m
	}
	return []string{"-drive", d, "-device", "virtio-blk-pci,drive=" + name + ",serial=" + name}
}

// process is a child that ends when this program does, in whatever way.
type process struct {
	name   string
	cmd    *exec.Cmd
	done   chan struct{}
	err    error
	output bytes.Buffer // complete when done is closed
}

// start starts a program. The error wraps fs.ErrNotExist where it is not
// installed.
func start(name string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		// The parent-death signal is tied to the thread, which must not end
		// before the child.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s: %w\nhint: integration/bootstrap.sh test installs it", name, err)
	}
	return p, nil
}

func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err == nil || errors.Is(err, os.ErrProcessDone) {
		<-p.done
	}
}

// ended says why, once done is closed.
func (p *process) ended() error {
	return fmt.Errorf("%s ended: %v\n%s", p.name, p.err, p.output.Bytes()) //nolint:errorlint // nil is an answer too
}

// dial connects to a socket that a process is about to make.
func dial(ctx context.Context, p *process, socket string) (net.Conn, error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return c, nil
		}
		if time.Now().After(deadline) || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		select {
		case <-p.done:
			return nil, p.ended()
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
