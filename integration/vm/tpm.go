package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func (v *VM) tpmSocket() string { return filepath.Join(v.sockets, "tpm") }

// startTPM starts a TPM for this boot. Its state is kept from boot to boot, as
// a chip's is; the process is not, because a used one refuses QEMU's
// initialisation.
func (v *VM) startTPM(ctx context.Context) error {
	if v.o.NoTPM {
		return nil
	}
	if err := os.RemoveAll(v.tpmSocket()); err != nil {
		return err
	}
	var err error
	v.swtpm, err = start("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(v.dir, "tpm"),
		"--ctrl", "type=unixio,path="+v.tpmSocket())
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err := os.Stat(v.tpmSocket()); err == nil {
			return nil
		}
		select {
		case <-v.swtpm.done:
			return v.swtpm.ended()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("swtpm made no socket: %w", os.ErrDeadlineExceeded)
}

// KillTPM ends the TPM under the running machine: its commands are answered no
// more.
func (v *VM) KillTPM() { v.swtpm.kill() }
