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

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// bpfLSM attaches a program that denies mkdir to this very thread and then tries
// it. That the program loads and attaches proves nothing: without bpf in lsm= it
// does both and never runs.
func bpfLSM(context.Context, Paths) []Result {
	const gain = "what later versions hold at run time is held more strongly with it: boot with bpf in lsm= (see /sys/kernel/security/lsm)"
	denied, err := canary()
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return one("bpf-lsm", Unknown, "needs root to try", "run as root")
	case errors.Is(err, fs.ErrPermission):
		return one("bpf-lsm", Absent, "this kernel lets no such program be loaded", gain)
	case err != nil:
		return one("bpf-lsm", Absent, firstLine(err.Error()), gain)
	case !denied:
		return one("bpf-lsm", Absent, "a program loads and attaches, but never runs", gain)
	}
	return one("bpf-lsm", Good, "a canary was denied", "")
}

// canary reports whether a BPF LSM program denied a mkdir by this thread.
func canary() (denied bool, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The attached program sees every mkdir of the host for a moment and lets
	// all but this thread's through.
	const denial = -int32(unix.EPERM)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "sealift_canary", Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "inode_mkdir", License: "GPL",
		Instructions: asm.Instructions{
			asm.FnGetCurrentPidTgid.Call(), // thread id in the lower half
			asm.Mov.Reg32(asm.R1, asm.R0),
			asm.Mov.Imm(asm.R0, 0),
			asm.JNE.Imm(asm.R1, int32(unix.Gettid()), "out"),
			asm.Mov.Imm(asm.R0, denial),
			asm.Return().WithSymbol("out"),
		},
	})
	if err != nil {
		return false, err
	}
	defer p.Close()
	l, err := link.AttachLSM(link.LSMOptions{Program: p})
	if err != nil {
		return false, err
	}
	defer l.Close()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("sealift-doctor-%d", unix.Gettid()))
	switch err := unix.Mkdir(dir, 0o700); {
	case errors.Is(err, unix.EPERM):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, os.Remove(dir)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
