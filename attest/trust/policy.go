// Package trust reads trust.yaml: what a verifier is ready to believe, and on
// whose word. It follows two rules. A key that is not known is an error, with
// file, line and a hint. A key that is missing means the strictest: an empty
// policy trusts nothing. docs/attestation.md, section "Trust policy", explains
// each key; Example is that text in short.
package trust

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/sealift/sealift/attest/certificate"
)

// Claims are the words of AR4SI (draft-ietf-rats-ar4si, section 2.3) that a
// verdict is made of.
var Claims = []string{"instance-identity", "hardware", "configuration", "executables", "file-system", "freshness"}

// Answer is accept or reject; the zero value rejects.
type Answer string

// The answers.
const (
	Reject Answer = "reject"
	Accept Answer = "accept"
)

// Yes says whether the answer is accept.
func (a Answer) Yes() bool { return a == Accept }

// Set is a list of accepted values; Any accepts all. The zero value accepts none.
type Set struct {
	Any    bool
	Values []string
}

// Has says whether the set accepts s.
func (s Set) Has(s1 string) bool { return s.Any || slices.Contains(s.Values, s1) }

// Authority is one CA.
type Authority struct {
	Name         string
	Certificates []*x509.Certificate
	// Classes are those it is believed about; an owner's CA has none. Whatever is
	// accepted, evidence from a software TPM never affirms hardware, instance
	// identity or freshness across restarts.
	Classes []certificate.Class
	// Revocation is false only where the policy says so by the CA's name.
	Revocation bool
}

// Policy is an effective trust policy.
type Policy struct {
	// CAs certify attestation keys; Owners, where there are any, must have
	// certified the same key a second time.
	CAs, Owners []Authority
	// Hosts are accepted host names.
	Hosts Set
	// Bank is the PCR bank that a quote must select; whatever banks it selects
	// besides must replay as well.
	Bank string
	// Require lists the claims that must not be without a word.
	Require []string

	Nonce     Answer // accept: evidence without the verifier's nonce
	MaxAge    time.Duration
	ClockSkew time.Duration

	LogStates    []string
	Acknowledged Answer // accept: another state that an operator's word covers
	Views        Answer // accept: a container's view with closed items of its namespace
	// Forgotten accepts a new boot whose log does not name the end of the log
	// that was proven before, UnknownRecords types of records that the verifier
	// is too old for.
	Forgotten, UnknownRecords Answer

	Boot       Boot
	Agent      Agent
	IMA        IMA
	Containers Containers
}

// Boot says which boots are accepted.
type Boot struct {
	// Unmeasured accepts a host whose firmware measured nothing.
	Unmeasured Answer
	// SecureBoot is "on", or "any".
	SecureBoot string
	// Applications are what the firmware may start (authenticode digests), all
	// of them; Files what GRUB may read; Initrds what the EFI stub measured.
	Applications, Files, Initrds Set
	// CommandLine are accepted whole command lines; Contains words that must be
	// there, Forbids words that must not.
	CommandLine       Set
	Contains, Forbids []string
}

// Agent says which Sealift is accepted.
type Agent struct {
	// SelfReported accepts an agent for which only its own word stands.
	SelfReported Answer
	// Path is where IMA must have seen it.
	Path string
	// Executables are accepted digests by program: sealiftd,
	// containerd-shim-sealift-v2, sealift, runc, criu.
	Executables map[string]Set
	// PolicySets are digests of the set of workload policies in effect.
	PolicySets Set
}

// IMA says what is asked of the kernel's measurements.
type IMA struct {
	// Policies are words of which one must stand in the measured command line.
	Policies []string
	// Files are digests of programs that may have run, Others the answer to
	// programs that are not among them.
	Files  Set
	Others Answer
	// Data are directories, ending in a slash, whose files are data: read by
	// root, measured, and never the same. That nothing in them is run is this
	// policy's word, best kept by mounting them noexec.
	Data []string
	// Violations is the answer to files that were open for writing while they
	// were measured.
	Violations Answer
	// Padded is the answer to kernels before 5.8, which extend no more than
	// SHA-1 into any bank.
	Padded Answer
}

// Containers says which containers are accepted.
type Containers struct {
	// Images are manifest digests.
	Images Set
	// Policies are digests of effective workload policies.
	Policies Set
	// Bindings are accepted binding classes of layers (docs/layer-digest.md).
	Bindings []string
	// WouldRefuse answers a container that started although enforce would have
	// refused it, Unmeasured one under "content: off", Violations a violation
	// while it ran.
	WouldRefuse, Unmeasured, Violations Answer
	// Bypass answers containers of the host that did not start through Sealift.
	Bypass Answer
	// Unproven answers containers that ran when an epoch began without a record
	// of their start.
	Unproven Answer
}
