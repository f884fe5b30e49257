// Package peer decides who is at the other end of the node socket. Uid 0 is not
// enough: root inside a container is uid 0 too. A peer must run one of our
// executables, in the agent's own namespaces, outside every container's cgroup.
package peer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Role is what a peer may ask for.
type Role string

const (
	Shim Role = "shim"
	CLI  Role = "cli"
)

// Peer is an identified process.
type Peer struct {
	PID  int
	Role Role
	Exe  string
}

// DeniedError says why a connection was closed.
type DeniedError struct {
	PID, UID int
	Exe      string
	Reason   string
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("node socket: pid %d uid %d exe %q: %s", e.PID, e.UID, e.Exe, e.Reason)
}

// Containers says whether a cgroup path belongs to a container.
type Containers interface {
	OwnsCgroup(path string) (container string, ok bool)
}

// Checker identifies peers. It is safe for concurrent use.
type Checker struct {
	containers Containers
	paths      map[Role][]string

	mu sync.Mutex
	// known are digests of our executables as this boot has seen them: a shim
	// that outlives an upgrade runs a file that is no longer at its path.
	known map[[sha256.Size]byte]Role
	store string
	// hashed are the files at our paths whose digests are in known.
	hashed map[fileKey]bool
}

// NewChecker makes a Checker for the executables at paths. Digests of those
// that exist are remembered in the file store, which should not outlive the boot.
func NewChecker(paths map[Role][]string, store string, c Containers) (*Checker, error) {
	k := &Checker{containers: c, paths: paths, known: map[[sha256.Size]byte]Role{}, hashed: map[fileKey]bool{}, store: store}
	if err := k.load(); err != nil {
		return nil, err
	}
	for role, list := range paths {
		for _, p := range list {
			f, err := os.Open(p)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("executable %s: %w", p, err)
			}
			err = k.remember(f, role)
			f.Close()
			if err != nil {
				return nil, fmt.Errorf("executable %s: %w", p, err)
			}
		}
	}
	return k, nil
}

// Check identifies the process at the other end of conn. Its error is a
// *DeniedError when that process may not speak to the agent.
func (k *Checker) Check(conn *net.UnixConn) (*Peer, error) {
	cred, err := credentials(conn)
	if err != nil {
		return nil, fmt.Errorf("node socket: peer credentials: %w", err)
	}
	pid := int(cred.Pid)
	deny := func(exe, format string, args ...any) error {
		return &DeniedError{PID: pid, UID: int(cred.Uid), Exe: exe, Reason: fmt.Sprintf(format, args...)}
	}
	if cred.Uid != 0 {
		return nil, deny("", "not root")
	}
	if pid <= 0 {
		return nil, deny("", "in a pid namespace that is not ours")
	}
	// The pidfd pins the process: if it is still alive when all has been read,
	// what was read was not another process's that took over the number.
	pidfd, err := peerPidfd(conn, pid)
	if err != nil {
		return nil, deny("", "gone before it could be identified: %v", err)
	}
	defer unix.Close(pidfd)

	proc := "/proc/" + strconv.Itoa(pid)
	exe, err := os.Readlink(proc + "/exe")
	if err != nil {
		return nil, deny("", "executable cannot be read: %v", err)
	}
	for _, ns := range []string{"pid", "mnt", "user"} {
		same, err := sameNamespace(proc, ns)
		if err != nil {
			return nil, deny(exe, "%s namespace cannot be read: %v", ns, err)
		}
		if !same {
			return nil, deny(exe, "in another %s namespace than the agent", ns)
		}
	}
	if c, err := k.container(proc); err != nil {
		return nil, deny(exe, "cgroup cannot be read: %v", err)
	} else if c != "" {
		return nil, deny(exe, "in the cgroup of container %s", c)
	}
	role, ok, err := k.role(proc + "/exe")
	if err != nil {
		return nil, deny(exe, "executable cannot be read: %v", err)
	}
	if !ok {
		return nil, deny(exe, "not one of our executables (node.shims and node.cli in the configuration)")
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return nil, deny(exe, "gone before it could be identified: %v", err)
	}
	return &Peer{PID: pid, Role: role, Exe: exe}, nil
}

// role compares the file behind exe with the configured paths by inode, and,
// for a file that has been replaced since, by what the agent knows of this boot.
func (k *Checker) role(exe string) (Role, bool, error) {
	f, err := os.Open(exe)
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", false, err
	}
	for role, list := range k.paths {
		for _, p := range list {
			if pi, err := os.Stat(p); err == nil && os.SameFile(fi, pi) {
				return role, true, k.remember(f, role)
			}
		}
	}
	if fi.Size() > maxExecutable {
		return "", false, nil
	}
	d, err := digest(f)
	if err != nil {
		return "", false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	role, ok := k.known[d]
	return role, ok, nil
}

// maxExecutable bounds what is hashed for a stranger.
const maxExecutable = 256 << 20

func (k *Checker) container(proc string) (string, error) {
	b, err := os.ReadFile(proc + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			return "", fmt.Errorf("line %q is not one of cgroups(7)", line)
		}
		if c, ok := k.containers.OwnsCgroup(parts[2]); ok {
			return c, nil
		}
	}
	return "", nil
}

func sameNamespace(proc, ns string) (bool, error) {
	theirs, err := os.Readlink(proc + "/ns/" + ns)
	if err != nil {
		return false, err
	}
	ours, err := os.Readlink("/proc/self/ns/" + ns)
	if err != nil {
		return false, err
	}
	return theirs == ours, nil
}

func credentials(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return nil, cerr
	}
	return cred, err
}

// soPeerPidfd is SO_PEERPIDFD (Linux 6.5, include/uapi/asm-generic/socket.h).
const soPeerPidfd = 77

func peerPidfd(conn *net.UnixConn, pid int) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	if cerr := raw.Control(func(s uintptr) {
		fd, err = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, soPeerPidfd)
	}); cerr != nil {
		return -1, cerr
	}
	if errors.Is(err, unix.ENOPROTOOPT) {
		return unix.PidfdOpen(pid, 0)
	}
	return fd, err
}
