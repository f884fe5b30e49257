package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// containerds asks each socket who listens there, and that program for its
// version.
func containerds(ctx context.Context, p Paths) []Result {
	var out []Result
	for _, socket := range p.Containerds {
		pid, err := listener(ctx, socket)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, fs.ErrPermission):
			out = append(out, one("containerd", Unknown, socket+": needs root to try", "run as root")...)
		case err != nil:
			out = append(out, one("containerd", Missing, err.Error(), "systemctl status containerd")...)
		default:
			out = append(out, daemon(ctx, socket, pid))
		}
	}
	if len(out) == 0 {
		return one("containerd", Missing, "no socket at "+strings.Join(p.Containerds, ", "), "apt-get install containerd; a socket elsewhere belongs into containerd.addresses of /etc/sealift/config.toml")
	}
	return out
}

// daemon looks at one that listens.
func daemon(ctx context.Context, socket string, pid int32) Result {
	// The link itself is run, and not what it reads as: the file may have been
	// replaced by an upgrade since. What is not called containerd is not run:
	// its answer to these arguments could be anything.
	exe := fmt.Sprintf("/proc/%d/exe", pid)
	target, err := os.Readlink(exe)
	if err != nil {
		return Result{Name: "containerd", State: Unknown, Detail: fmt.Sprintf("%s, process %d: %v", socket, pid, err)}
	}
	if name := strings.TrimSuffix(filepath.Base(target), " (deleted)"); !strings.HasPrefix(name, "containerd") {
		return Result{Name: "containerd", State: Note, Detail: fmt.Sprintf("%s is served by %s", socket, target), Hint: "expected containerd there"}
	}
	r := Result{Name: "containerd", State: Good, Detail: socket + ", " + firstLine(output(ctx, exe, "--version"))}
	if discards(output(ctx, exe, append(configFlag(pid), "config", "dump")...)) {
		r.State = Note
		r.Hint = "discard_unpacked_layers is on: an image whose layers were never measured has nothing to be compared with; set it to false and pull again"
	}
	return r
}

var discardLine = regexp.MustCompile(`(?m)^\s*discard_unpacked_layers\s*=\s*true\b`)

// discards reports whether a containerd's configuration throws away the blobs of
// unpacked layers.
func discards(config string) bool { return discardLine.MatchString(config) }

// configFlag is the flag with which a daemon was told its configuration.
func configFlag(pid int32) []string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	args := strings.Split(string(line), "\x00")
	for i, a := range args {
		if flag, value, ok := strings.Cut(a, "="); ok && isConfigFlag(flag) {
			return []string{"--config", value}
		}
		if isConfigFlag(a) && i+1 < len(args) {
			return []string{"--config", args[i+1]}
		}
	}
	return nil
}

func isConfigFlag(s string) bool { return s == "-c" || s == "-config" || s == "--config" }

// listener connects to a socket and returns the process that listens.
func listener(ctx context.Context, socket string) (int32, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Pid, nil
}
