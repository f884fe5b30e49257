package made

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// suite is the Debian release test hosts run.
const suite = "trixie"

// packages are what a test host needs beyond a minimal Debian: the older
// containerd line and runc, the software TPM, and the tools the tests look
// with. A change here makes a new root file system.
var packages = []string{
	"acl", "attr", "busybox-static", "ca-certificates", "containerd", "criu", "curl",
	"e2fsprogs", "erofs-utils", "file", "iproute2", "iptables", "jq", "kmod", "less",
	"libcap2-bin", "lsof", "netcat-openbsd", "nftables", "openssl", "procps", "python3-minimal",
	"rsync", "runc", "strace", "swtpm", "swtpm-tools", "tpm2-tools", "util-linux",
}

// Rootfs returns the root file system of a test host, made with debootstrap
// when absent (a minute or two, 550 MB). It is shared and must not be written
// to: a host puts an overlay on it. It needs root, and wraps fs.ErrPermission
// without.
func Rootfs(ctx context.Context) (string, error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("a test host's root file system: %w", fs.ErrPermission)
	}
	name := "rootfs-" + suite + "-" + key(append([]string{"1", suite, runtime.GOARCH}, packages...)...)
	return ensure(ctx, name, debootstrap)
}

func debootstrap(ctx context.Context, dir string) error {
	mirror, err := mirror()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase",
		"--include="+strings.Join(packages, ","), suite, dir, mirror)
	// Debian's root has the sbin directories in PATH; a plain su has not.
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		tail := out.Bytes()
		if b, rerr := os.ReadFile(filepath.Join(dir, "debootstrap", "debootstrap.log")); rerr == nil {
			tail = append(tail, b...)
		}
		if len(tail) > 4000 {
			tail = tail[len(tail)-4000:]
		}
		return fmt.Errorf("debootstrap %s: %w\n%s", suite, err, tail)
	}
	return trim(dir)
}

// trim drops what only costs space and what would make two hosts look alike.
func trim(dir string) error {
	for _, pattern := range []string{
		"var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "usr/share/doc/*",
		"usr/share/man/*", "usr/share/locale/*", "etc/machine-id", "var/lib/dbus/machine-id",
	} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := os.RemoveAll(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// mirror returns the address of the machine's own Debian archive, from its apt
// sources: the one place that knows what this machine can reach.
func mirror() (string, error) {
	files := []string{"/etc/apt/sources.list"}
	for _, pattern := range []string{"/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list.d/*.list"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		files = append(files, more...)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if m := archive(b); m != "" {
			return m, nil
		}
	}
	return "", fmt.Errorf("no Debian archive in %s: %w\nhint: this needs apt sources with suite \"main\" of Debian", strings.Join(files, ", "), fs.ErrNotExist)
}

// archive finds the first address of a Debian archive (not of its security
// updates, not of some other publisher) in an apt sources file of either form.
func archive(b []byte) string {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 || f[0] != "URIs:" && f[0] != "deb" {
			continue
		}
		for _, w := range f[1:] {
			u, err := url.Parse(w)
			if err != nil || u.Scheme == "" {
				continue
			}
			if p := strings.TrimSuffix(u.Path, "/"); strings.HasSuffix(p, "/debian") {
				return strings.TrimSuffix(w, "/")
			}
		}
	}
	return ""
}
