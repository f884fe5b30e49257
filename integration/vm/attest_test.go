package vm_test

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/integration/vm"
)

// booted is a machine that boots through GRUB on measuring firmware, with IMA on
// its command line, and a verifier who knows its good state.
type booted struct {
	machine
	ca, crl string
	policy  string
}

const vmNonce = "000102030405060708090a0b0c0d0e0f"

// enrol certifies the machine's key with a CA on the machine itself.
func (b *booted) enrol() {
	b.sh(`sealift ca init --name vm /srv/ca >/dev/null; cd /srv
sealift enroll request --host vm >request.json; sealift ca pin-ek --dir ca --host vm request.json >/dev/null
sealift ca challenge --dir ca request.json >challenge.json; sealift enroll answer challenge.json >answer.json
sealift ca issue --dir ca answer.json >certificate.json; sealift enroll store certificate.json >/dev/null`)
	b.ca, b.crl = b.sh("cat /srv/ca/ca.pem"), b.sh("sealift ca crl --pem --dir /srv/ca")
}

// evidence is the machine's, for a nonce.
func (b *booted) evidence() []byte {
	b.t.Helper()
	out, err := b.shell("sealift attest --nonce " + vmNonce)
	if err != nil {
		b.t.Fatal(err)
	}
	return []byte(out)
}

// judge is the verifier, elsewhere.
func (b *booted) judge(text []byte, policy string) *verify.Verdict {
	b.t.Helper()
	p, err := trust.Parse("trust.yaml", []byte(policy), func(string) ([]byte, error) { return []byte(b.ca), nil })
	if err != nil {
		b.t.Fatal(err)
	}
	nonce, err := hex.DecodeString(vmNonce)
	if err != nil {
		b.t.Fatal(err)
	}
	return verify.Appraise(verify.Input{Evidence: text, Trust: p, Now: time.Now(), Revocation: [][]byte{[]byte(b.crl)},
		Expect: verify.Expect{Binding: evidence.Binding{Purpose: evidence.Offline, VerifierNonce: nonce}}})
}

// trustOf writes a trust policy; boot and agent are its sections of those names.
func trustOf(boot, agent, ima string) string {
	return "version: 1\nca: [{name: vm, file: ca.pem, classes: [software]}]\nhosts: [vm]\nboot: {secure-boot: any, " + boot +
		"}\nagent: {policy-sets: any, " + agent + "}\nima: {violations: accept, data: [/var/, /run/, /srv/, /etc/, /root/], " + ima + "}\n" +
		"containers: {images: any, policies: any, bindings: [tree, blob, verity]}\n"
}

func list(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		d, _, _ := strings.Cut(v, " ")
		quoted[i] = fmt.Sprintf("%q", d)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// learn makes the policy that accepts this very state and no other.
func (b *booted) learn() {
	b.t.Helper()
	any := "containerd-shim-sealift-v2: any, sealift: any, runc: any, criu: any"
	v := b.judge(b.evidence(), trustOf("applications: any, files: any, initrds: any, command-line: any", "executables: {sealiftd: any, "+any+"}", "files: []"))
	if v.Boot == nil || v.Agent == nil || len(v.Boot.Applications) == 0 || len(v.Boot.Files) == 0 || len(v.Boot.Initrds) == 0 {
		b.t.Fatalf("the evidence proves no boot: %s", reasons(v))
	}
	line := b.sh("cat /proc/cmdline")
	e, err := evidence.Decode(b.evidence())
	if err != nil {
		b.t.Fatal(err)
	}
	entries, err := imalog.Parse(e.IMA)
	if err != nil {
		b.t.Fatal(err)
	}
	files := map[string]bool{}
	for _, e := range entries {
		if !e.Violation && strings.HasPrefix(e.Text(), "sha256:") {
			files[e.Text()] = true
		}
	}
	b.policy = trustOf(fmt.Sprintf("applications: %s, files: %s, initrds: %s, command-line: [%q]", list(v.Boot.Applications), list(v.Boot.Files), list(v.Boot.Initrds), line),
		fmt.Sprintf("executables: {sealiftd: [%q], %s}", v.Agent.Executables["sealiftd"], any), "files: "+list(slices.Sorted(maps.Keys(files))))
}

// is judges a new proof: trusted, or refused for all of the codes.
func (b *booted) is(refusedFor ...string) *verify.Verdict {
	b.t.Helper()
	v := b.judge(b.evidence(), b.policy)
	if want := len(refusedFor) == 0; want != (v.Result == verify.Trusted) {
		b.t.Fatalf("the verdict is %s: %s", v.Result, reasons(v))
	}
	for _, code := range refusedFor {
		if !against(v, code) {
			b.t.Errorf("the verdict does not name %s: %s", code, reasons(v))
		}
	}
	return v
}

func against(v *verify.Verdict, code string) bool {
	return slices.ContainsFunc(v.Claims, func(c verify.Claim) bool {
		return slices.ContainsFunc(c.Reasons, func(r verify.Reason) bool { return r.Code == code && r.Status == verify.Contraindicated })
	})
}

func reasons(v *verify.Verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", v.Result)
	for _, c := range v.Claims {
		for _, r := range c.Reasons {
			fmt.Fprintf(&b, "  %s: %s %s: %s\n", c.Name, r.Status, r.Code, r.Message)
		}
	}
	return b.String()
}

// goodAgent is a name as long as /proc/self/exe.
const goodAgent = "/srv/goodagent"

// replaceAgent puts an agent into the good one's place that says of itself, and
// extends, what the good one would: it hashes the good one's file for its own.
// It is written there at once, or looked at elsewhere first (and so measured
// under another name) and moved.
var replaceAgent = map[string]string{
	"written into its place": `cp /usr/local/bin/sealiftd ` + goodAgent + `; rm /usr/local/bin/sealiftd
LC_ALL=C sed 's#/proc/self/exe#` + goodAgent + `#g' ` + goodAgent + ` >/usr/local/bin/sealiftd; chmod 755 /usr/local/bin/sealiftd`,
	"moved into its place": `cp ` + goodAgent + ` /usr/local/bin/sealiftd
LC_ALL=C sed 's#/proc/self/exe#` + goodAgent + `#g' ` + goodAgent + ` >/usr/local/lib/evil; chmod 755 /usr/local/lib/evil
! cmp -s /usr/local/lib/evil ` + goodAgent + `; mv /usr/local/lib/evil /usr/local/bin/sealiftd`,
}

const stopAgent = "pkill -x sealiftd; while pgrep -x sealiftd >/dev/null; do sleep 0.2; done\n"

// What boots is proven from the firmware on, and the agent by IMA: each change
// changes the verdict, by name.
func TestVMAttestation(t *testing.T) {
	long(t)
	const ima = "ima_policy=tcb"
	b := &booted{machine: newMachine(t, vm.NodeOptions{Options: vm.Options{Loader: true, CommandLine: ima}})}
	b.enrol()
	b.runs("first")
	b.learn()
	if v := b.is(); v.Claim(verify.Executables).Status == verify.None || !v.Has("agent-measured") || v.Has("self-reported") {
		t.Fatalf("IMA does not vouch for the agent: %s", reasons(v))
	}
	boot := func(name string, change func() error, codes ...string) {
		ok := t.Run(name, func(t *testing.T) {
			x := *b
			x.t = t
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if err := b.Reboot(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := b.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			x.is(codes...)
		})
		if !ok {
			t.FailNow()
		}
	}
	replace := func(file string, change func([]byte) []byte) func() error {
		return func() error {
			old, err := b.ReadBoot(t.Context(), file)
			if err != nil {
				return err
			}
			return b.WriteBoot(t.Context(), file, change(old))
		}
	}
	longer := func(old []byte) []byte { return append(slices.Clone(old), make([]byte, 512)...) }
	shorter := func(old []byte) []byte { return old[:len(old)-512] }

	boot("the same again", func() error { return nil })
	boot("another command line", func() error { return b.SetCommandLine(t.Context(), ima+" mitigations=off") }, "command-line")
	boot("the command line put back", func() error { return b.SetCommandLine(t.Context(), ima) })
	boot("another initrd", replace(vm.BootInitrd, longer), "initrd", "boot-file")
	boot("the initrd put back", replace(vm.BootInitrd, shorter))
	boot("another boot loader", replace(vm.BootLoader, longer), "boot-application")
	boot("the boot loader put back", replace(vm.BootLoader, shorter))

	for _, how := range []struct{ name, code string }{{"written into its place", "agent-replaced"}, {"moved into its place", "ima-others"}} {
		// Another boot, since what the kernel saw once stays in its log.
		boot("the same again, before an agent is "+how.name, func() error { return nil })
		t.Run("a replaced agent that extends the good digest, "+how.name, func(t *testing.T) {
			x := *b
			x.t = t
			x.sh("%s%s", stopAgent, replaceAgent[how.name])
			if err := b.StartAgent(t.Context()); err != nil {
				t.Fatal(err)
			}
			// A verifier that takes the agent's word does not see it.
			naive := strings.Replace(strings.Replace(x.policy, "ima: {", "ima: {policies: [none], ", 1), "agent: {", "agent: {self-reported: accept, ", 1)
			if v := x.judge(x.evidence(), naive); v.Result != verify.Trusted {
				t.Fatalf("the naive verifier sees through it: the attack shows nothing: %s", reasons(v))
			}
			x.is(how.code)
			x.sh("%scp %s /usr/local/bin/sealiftd", stopAgent, goodAgent)
		})
	}
}
