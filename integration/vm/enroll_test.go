package vm_test

import (
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/vm"
)

// patient asks again where no agent answered: it counts as absent after a second,
// and on a machine that is twenty times too slow it sometimes is.
const patient = `s() { for i in 1 2 3 4 5 6 7 8; do c=0; sealift "$@" || c=$?; [ $c = 3 ] || return $c; sleep 1; done; return 3; }
`

// Enrolment and quotes through the kernel's resource manager: the saved key is
// loaded again and again, containers start between, and nothing stays in the TPM.
func TestVMEnroll(t *testing.T) {
	long(t)
	m := newMachine(t, vm.NodeOptions{Options: vm.Options{}})
	out := m.sh(patient + `cd /root && sealift ca init --name 'Lab CA' ca >/dev/null
		s enroll request --host vm1 >request && sealift ca pin-ek --dir ca request >/dev/null
		sealift ca challenge --dir ca request >challenge && s enroll answer challenge >answer
		sealift ca issue --dir ca answer >result && s enroll store result`)
	if !strings.Contains(out, "vm1 is certified by Lab CA (platform) as software") {
		t.Errorf("%q", out)
	}
	m.sh(patient + "for i in 1 2 3 4 5; do s attest --nonce 0$i >/root/evidence.$i; done")
	m.runs("between")
	m.sh(patient + "s attest --nonce 06 | jq -e '.ak.certificates | length > 0' >/dev/null")
	// The whole TPM, not only what the resource manager would show us.
	if left := m.sh("tpm2_getcap -T device:/dev/tpm0 handles-transient; tpm2_getcap -T device:/dev/tpm0 handles-loaded-session"); left != "" {
		t.Errorf("left in the TPM: %s", left)
	}
	m.proven()
}
