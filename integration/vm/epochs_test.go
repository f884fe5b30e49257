package vm_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/vm"
)

// resets is the TPM's count of its own resets (TPM 2.0 part 1, 36.7).
func (m machine) resets() int {
	m.t.Helper()
	n, err := strconv.Atoi(m.sh("tpm2_readclock -T device:/dev/tpmrm0 | sed -n 's/^ *reset_count: //p'"))
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// newEpoch is what every boot must come to: the log's state is trusted, and it
// began anew.
func (m machine) newEpoch(old status) status {
	m.t.Helper()
	s := m.status()
	if s.Log.State != "trusted" || s.Log.Epoch == old.Log.Epoch {
		m.t.Fatalf("after another boot the log is %+v, before %+v", s.Log, old.Log)
	}
	m.proven()
	return s
}

// What a boot, a power cut, a kernel started by a kernel and somebody else's
// extend do to the log and to containers.
func TestVMEpochs(t *testing.T) {
	long(t)
	m := newMachine(t, vm.NodeOptions{Options: vm.Options{BootFiles: "/srv/boot"}})
	for _, step := range []struct {
		name string
		do   func(machine)
	}{
		{"reboot", reboots},
		{"power cut in the middle of starts", powerCut},
		{"foreign extend", foreignExtend},
		{"kexec", kexecs},
		{"TPM dies", tpmDies},
	} {
		// One after the other on one machine: where one fails the next mean nothing.
		if !t.Run(step.name, func(t *testing.T) { step.do(machine{m.Node, t}) }) {
			return
		}
	}
}

func reboots(m machine) {
	ctx := m.t.Context()
	m.sh("ctr run -d --runtime %s %s keeps sh -c 'echo kept >/kept; sleep 100000'", node.Sealift, image.TinyName)
	before, boot, resets := m.status(), m.Boot, m.resets()
	m.sh("sync")
	if err := m.Reboot(ctx); err != nil {
		m.t.Fatal(err)
	}
	if m.Boot == boot {
		m.t.Error("the boot id is the old one")
	}
	if v := m.pcr(); strings.Trim(v, "0") != "" {
		m.t.Errorf("PCR 13 is %s before the agent's first record", v)
	}
	if n := m.resets(); n != resets+1 {
		m.t.Errorf("the TPM's reset count is %d, was %d", n, resets)
	}
	if err := m.Start(ctx); err != nil {
		m.t.Fatal(err)
	}
	m.newEpoch(before)
	if out := m.sh("sealift log --epoch %.12s default/keeps", before.Log.Epoch); !strings.Contains(out, image.TinyName) {
		m.t.Errorf("the log from before the boot says of the container:\n%s", out)
	}
	// Its writable layer is not empty, and no stranger's.
	if out := m.sh("ctr task start -d keeps && ctr task exec --exec-id look keeps cat /kept"); out != "kept" {
		m.t.Errorf("the container has %q", out)
	}
	m.sh("ctr task kill -s KILL keeps; until ctr task delete keeps; do sleep 1; done; ctr container delete keeps")
}

func powerCut(m machine) {
	ctx := m.t.Context()
	before := m.status()
	m.sh("sync")
	// Starts are under way when the plug is pulled: some recorded, some not.
	m.sh(`for i in 1 2 3 4 5 6; do
setsid ctr run -d --runtime %s %s cut-$i sleep 100000 >/dev/null 2>&1 </dev/null &
done
until sealift log | grep -q default/cut-; do sleep 0.2; done`, node.Sealift, image.TinyName)
	if err := m.PowerCut(); err != nil {
		m.t.Fatal(err)
	}
	if err := m.PowerOn(ctx); err != nil {
		m.t.Fatal(err)
	}
	if err := m.Start(ctx); err != nil {
		m.t.Fatal(err)
	}
	m.newEpoch(before)
	// What the disk had not got is gone, and with it the PCR that would miss it.
	// What is left must read to its end.
	if out := m.sh("sealift log --epoch %.12s", before.Log.Epoch); !strings.Contains(out, "default/keeps") {
		m.t.Errorf("the log from before the power cut:\n%s", out)
	}
	m.runs("after-cut")
}

func foreignExtend(m machine) {
	before := m.status()
	m.sh("tpm2_pcrextend -T device:/dev/tpm0 13:sha256=%064d", 7)
	m.refused("foreign", "foreign")
	if s := m.status(); s.Log.State != "foreign" || s.Log.Epoch != before.Log.Epoch {
		m.t.Errorf("after somebody else's extend: %+v", s.Log)
	}
	m.sh("sealift log acknowledge foreign --reason 'the test did it'")
	m.runs("acknowledged")
}

// A kernel that is started by a kernel has a new boot id and an old PCR: no
// trusted epoch can begin.
func kexecs(m machine) {
	ctx := m.t.Context()
	boot, pcr := m.Boot, m.pcr()
	m.sh("sync; kexec --load /srv/boot/kernel --initrd=/srv/boot/initrd --reuse-cmdline --kexec-file-syscall")
	if err := m.Restart(ctx, "kexec", "--exec"); err != nil {
		m.t.Fatal(err)
	}
	if m.Boot == boot {
		m.t.Error("the boot id is the old one")
	}
	if v := m.pcr(); v != pcr {
		m.t.Errorf("PCR 13 is %s, was %s", v, pcr)
	}
	if err := m.Start(ctx); err != nil {
		m.t.Fatal(err)
	}
	if s := m.status(); s.Log.State != "history-lost" {
		m.t.Errorf("after kexec: %+v", s.Log)
	}
	m.refused("kexec", "history-lost")
}

// A TPM that is gone while the machine runs.
func tpmDies(m machine) {
	m.sh("sealift log acknowledge history-lost --reason 'the test did it'")
	m.runs("last")
	m.KillTPM()
	start := time.Now()
	m.refused("no-tpm", "TPM")
	m.t.Logf("refused after %s", time.Since(start).Round(time.Second))
	if out := m.sh("sealift status || true"); !strings.Contains(out, "unavailable") {
		m.t.Errorf("status without a TPM:\n%s", out)
	}
	m.sh("! ctr task ls | grep -q no-tpm")
}
