package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// State is where Sealift keeps what lasts, RunDir what lasts until reboot.
const (
	State  = "/var/lib/sealift"
	RunDir = "/run/sealift"
	// Config is where policy, trusted keys and configuration are.
	Config = "/etc/sealift"
)

// HostProtected is what is to be protected on this host, as it is now: a TPM can
// appear late.
func HostProtected() (Protected, error) {
	p := Protected{Paths: []string{RunDir, State, Config}, Resolve: filepath.EvalSymlinks, Identify: identify}
	for _, pattern := range []string{"/dev/tpm[0-9]*", "/dev/tpmrm[0-9]*"} {
		nodes, err := filepath.Glob(pattern)
		if err != nil {
			return p, fmt.Errorf("TPM device nodes: %w", err)
		}
		for _, node := range nodes {
			var st unix.Stat_t
			if err := unix.Stat(node, &st); err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				return p, fmt.Errorf("TPM device node: %w", &os.PathError{Op: "stat", Path: node, Err: err})
			}
			if st.Mode&unix.S_IFMT != unix.S_IFCHR {
				continue
			}
			p.Paths = append(p.Paths, node)
			p.Devices = append(p.Devices, Device{Type: "c", Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))})
		}
	}
	return p, nil
}

func identify(path string) (FileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return FileID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return FileID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}
