package vm_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/vm"
)

// Firmware that measures, and a kernel that measures every program into PCR 10:
// neither disturbs ours.
func TestVMFirmwareAndIMA(t *testing.T) {
	long(t)
	m := newMachine(t, vm.NodeOptions{Options: vm.Options{Firmware: true, CommandLine: "ima_policy=tcb"}})
	if n, err := strconv.Atoi(m.sh("wc -c </sys/kernel/security/tpm0/binary_bios_measurements")); err != nil || n < 1000 {
		t.Errorf("the firmware's log has %d bytes, %v", n, err)
	}
	other := func() (pcr10 string, entries int) {
		n, err := strconv.Atoi(m.sh("wc -l </sys/kernel/security/ima/ascii_runtime_measurements"))
		if err != nil {
			t.Fatal(err)
		}
		return m.sh("tpm2_pcrread -T device:/dev/tpmrm0 sha256:10 | sed -n 's/.*0x//p'"), n
	}
	if s := m.status(); s.Log.State != "trusted" {
		t.Errorf("the log is %+v", s.Log)
	}
	before, n := other()
	m.runs("first")
	after, more := other()
	if n < 20 || more <= n || before == after {
		t.Errorf("IMA measured %d files and then %d, PCR 10 was %s and is %s", n, more, before, after)
	}
	m.runs("second")
	if s := m.status(); s.Log.State != "trusted" {
		t.Errorf("with IMA beside it the log is %+v", s.Log)
	}
	m.proven()
}

// The units as they are installed, with systemd as init.
func TestVMUnits(t *testing.T) {
	long(t)
	m := newMachine(t, vm.NodeOptions{Options: vm.Options{Systemd: true, Files: units(t)}})
	if out := m.sh("systemctl is-active sealiftd containerd; systemctl is-active sealift-swtpm || true"); out != "active\nactive\ninactive" {
		t.Errorf("sealiftd, containerd and, where there is a TPM, no software one: %q", out)
	}
	m.runs("first")
	m.sh("systemctl kill -s KILL sealiftd; sleep 1; until sealift status >/dev/null; do sleep 0.5; done")
	if s := m.status(); s.Log.State != "trusted" && s.Log.State != "recovered" {
		t.Errorf("after systemd started the agent again: %+v", s.Log)
	}
	m.runs("second")
	m.proven()
	m.sh("systemctl stop sealiftd")
	if out, ok := m.start("third", ""); ok || !strings.Contains(out, "hint:") {
		t.Errorf("without an agent: %q", out)
	}
	m.sh("systemctl start sealiftd")
	m.runs("fourth")
}
