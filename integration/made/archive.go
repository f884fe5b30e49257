package made

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// debianKeyring is what vouches for the archive's lists of packages.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// download brings packages of the test hosts' Debian release, and what they
// need beyond what rootfs has, into dir/archives. The apt that does it has a
// state of its own: this machine's, which may be another release, stays as it
// is.
func download(ctx context.Context, dir, rootfs string, packages ...string) error {
	mirror, err := mirror()
	if err != nil {
		return err
	}
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	sources := filepath.Join(dir, "sources.list")
	line := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", debianKeyring, mirror, suite)
	if err := os.WriteFile(sources, []byte(line), 0o644); err != nil {
		return err
	}
	// apt locks the status file's directory: the shared one is not to be touched.
	status := filepath.Join(dir, "status")
	if err := copyFile(filepath.Join(rootfs, "var", "lib", "dpkg", "status"), status); err != nil {
		return err
	}
	var options []string
	for _, o := range []string{
		"Dir::Etc::SourceList=" + sources, "Dir::Etc::SourceParts=/dev/null", "Dir::Etc::PreferencesParts=/dev/null",
		"Dir::State::Lists=" + filepath.Join(dir, "lists"), "Dir::State::Status=" + status,
		"Dir::Cache=" + dir, "Dir::Cache::Archives=" + filepath.Join(dir, "archives"),
		"APT::Architecture=" + runtime.GOARCH, "APT::Sandbox::User=root", "APT::Install-Recommends=false",
	} {
		options = append(options, "-o", o)
	}
	if err := run(ctx, "apt-get", append(options, "-qq", "update")...); err != nil {
		return err
	}
	return run(ctx, "apt-get", append(append(options, "-qq", "-y", "--download-only", "install"), packages...)...)
}

// run runs one of the machine's programs to its end; an error holds what it
// wrote.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	// Debian's root has the sbin directories in PATH; a plain su has not.
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "DEBIAN_FRONTEND=noninteractive")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out.Bytes()[max(0, out.Len()-4000):])
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
