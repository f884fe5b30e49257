package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/version"
	"github.com/sealift/sealift/measure/tpm"
)

// defaultPCR is what the agent extends unless it is configured otherwise.
const defaultPCR = 13

// tpmDevice reads the PCR of the TPM that the agent has, or would take.
func tpmDevice(ctx context.Context, p Paths) []Result {
	if path, pcr, ok := agentTPM(ctx, p); ok {
		return readPCR(ctx, path, pcr)
	}
	if _, err := os.Stat(p.TPM); err == nil {
		return readPCR(ctx, p.TPM, defaultPCR)
	}
	path := strings.TrimPrefix(p.Embedded, "unix:")
	if _, err := os.Stat(path); err == nil {
		return readPCR(ctx, p.Embedded, defaultPCR)
	}
	if _, err := exec.LookPath("swtpm"); err == nil {
		return one("tpm", Note, "no "+p.TPM+"; the embedded software TPM is not running", "systemctl start sealift-swtpm; evidence from a software TPM is capped: its identity and history can be copied")
	}
	return one("tpm", Missing, "no "+p.TPM+" and no swtpm", "enable the TPM in the firmware, or apt-get install swtpm for the embedded software TPM")
}

// agentTPM asks a running agent which TPM and PCR it is configured for.
func agentTPM(ctx context.Context, p Paths) (path string, pcr int, ok bool) {
	c, err := node.Dial(ctx, p.Socket, "cli", version.Version)
	if err != nil {
		return "", 0, false
	}
	defer c.Close()
	s, err := c.Status(ctx, &nodev1.StatusRequest{})
	t := s.GetTpm()
	return t.GetDevice(), int(t.GetPcr()), err == nil && t.GetDevice() != ""
}

func readPCR(ctx context.Context, path string, pcr int) []Result {
	d, err := tpm.Open(ctx, path)
	if errors.Is(err, fs.ErrPermission) {
		return one("tpm", Unknown, path+": needs root to try", "run as root")
	}
	if err != nil {
		return one("tpm", Missing, firstLine(err.Error()), hintOf(err))
	}
	defer d.Close()
	props, err := d.Properties(ctx)
	if err != nil {
		return one("tpm", Missing, firstLine(err.Error()), hintOf(err))
	}
	values, err := d.ReadPCR(ctx, pcr)
	if err != nil {
		return one("tpm", Missing, firstLine(err.Error()), hintOf(err))
	}
	var banks []string
	for _, b := range values.Banks() {
		banks = append(banks, b.String())
	}
	detail := fmt.Sprintf("%s, %s %s, PCR %d in %s", path, props.Manufacturer, props.Firmware, pcr, strings.Join(banks, "+"))
	if d.Class() == tpm.Software {
		return one("tpm", Note, detail, "a software TPM: its identity and history can be copied, and evidence from it is capped")
	}
	return one("tpm", Good, detail, "")
}

// hintOf takes the hint from an error's text.
func hintOf(err error) string {
	_, hint, _ := strings.Cut(err.Error(), "\nhint: ")
	return hint
}

func swtpm(ctx context.Context, p Paths) []Result {
	_, err := os.Stat(p.TPM)
	needed := err != nil
	path, err := exec.LookPath("swtpm")
	if err != nil && needed {
		return one("swtpm", Missing, "not installed, and there is no "+p.TPM, "apt-get install swtpm")
	}
	if err != nil {
		return one("swtpm", Absent, "not installed; not needed beside "+p.TPM, "")
	}
	return one("swtpm", Good, firstLine(output(ctx, path, "--version")), "")
}

// output is what a program prints, or why it does not.
func output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return fmt.Sprintf("%s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}
