// Package swtpmtest gives tests a real software TPM: an swtpm process on a
// socket of its own, to be killed, restarted and rolled back, and a proxy in
// front of it that can hold, delay or count commands.
package swtpmtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/skip"
)

// TPM is one swtpm process with its state directory.
type TPM struct {
	// State is the state directory, Socket the path it serves commands on;
	// its control socket is Socket + ".ctrl", as tpm2-tools expect.
	State, Socket string

	t   testing.TB
	cmd *exec.Cmd
}

// Start starts swtpm for the test and kills it at the test's end. The test is
// skipped only where swtpm is not installed.
func Start(t testing.TB) *TPM {
	t.Helper()
	x := prepare(t)
	x.Restart()
	return x
}

func prepare(t testing.TB) *TPM {
	t.Helper()
	// A socket's path must fit in 107 bytes, so t.TempDir is too long.
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	x := &TPM{State: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "s"), t: t}
	t.Cleanup(func() {
		x.Kill()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(x.State, 0o700); err != nil {
		t.Fatal(err)
	}
	return x
}

// Manufacture is Start of a TPM that swtpm_setup and swtpm_localca have made: it
// has an RSA endorsement key whose certificate chain ends in the CA that lives in
// the directory ca, and is made there where it is empty. The root certificate is
// RootFile, the intermediate IssuerFile in ca.
func Manufacture(t testing.TB, ca string) *TPM {
	t.Helper()
	x := prepare(t)
	dir := filepath.Dir(x.State)
	tool, err := exec.LookPath("swtpm_localca")
	if err != nil {
		SkipMissing(t, err)
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"localca.conf": fmt.Sprintf("statedir = %s\nsigningkey = %s/signkey.pem\nissuercert = %s/%s\ncertserial = %s/certserial\n", ca, ca, ca, IssuerFile, ca),
		"options":      "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n",
		"setup.conf":   fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s/localca.conf\ncreate_certs_tool_options = %s/options\n", tool, dir, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	Tool(t, nil, "swtpm_setup", "--tpm2", "--tpmstate", x.State, "--create-ek-cert", "--config", filepath.Join(dir, "setup.conf"), "--overwrite")
	x.Restart()
	return x
}

// Certificates in the directory of swtpm_localca's CA.
const (
	RootFile   = "swtpm-localca-rootca-cert.pem"
	IssuerFile = "issuercert.pem"
)

// Device is the name tpm.Open takes.
func (x *TPM) Device() string { return "unix:" + x.Socket }

// TCTI is the name tpm2-tools take after -T.
func (x *TPM) TCTI() string { return "swtpm:path=" + x.Socket }

// Kill ends the process as kill -9 does. The state directory stays.
func (x *TPM) Kill() {
	if x.cmd == nil {
		return
	}
	if err := x.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		x.t.Error(err)
	}
	var exit *exec.ExitError
	if err := x.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		x.t.Error(err)
	}
	x.cmd = nil
}

// Restart kills the process if there is one and starts it over its state.
func (x *TPM) Restart() {
	x.t.Helper()
	x.Kill()
	x.cmd = exec.Command("swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+x.State,
		"--server", "type=unixio,path="+x.Socket,
		"--ctrl", "type=unixio,path="+x.Socket+".ctrl",
		"--flags", "not-need-init,startup-clear")
	// A test binary that dies must not leave its swtpm behind.
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := x.cmd.Start(); err != nil {
		x.cmd = nil
		SkipMissing(x.t, err)
		x.t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		err := answers(x.Socket, deadline)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("swtpm at %s: %v", x.Socket, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// answers has the TPM answer a command: it takes calls before it has started, and
// one that is killed then was never reset.
func answers(socket string, deadline time.Time) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	// TPM2_GetRandom of 4 bytes (TPM 2.0 Library, part 3, section 16.1).
	random := []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 4}
	err = c.SetDeadline(deadline)
	if err == nil {
		_, err = c.Write(random)
	}
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 10+2+4))
	}
	return errors.Join(err, c.Close())
}

// SkipMissing skips the test when err says that a program is not installed.
func SkipMissing(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, exec.ErrNotFound) {
		skip.On(t, fmt.Errorf("%w: %w", err, errors.ErrUnsupported))
	}
}

// Tool runs a program and returns its standard output; the test is skipped
// where the program is not installed, and fails when it fails.
func Tool(t testing.TB, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	out, err := cmd.Output()
	if err != nil {
		SkipMissing(t, err)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return out
}

// Succeeds runs a program and reports whether it exits with 0; the test is
// skipped where the program is not installed.
func Succeeds(t testing.TB, name string, args ...string) bool {
	t.Helper()
	err := exec.Command(name, args...).Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		SkipMissing(t, err)
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return err == nil
}
