// Package verify judges evidence. Appraise is a function of its input alone: it
// needs no root, no network, no agent and no clock.
package verify

import (
	"fmt"
	"slices"

	"github.com/sealift/sealift/attest/trust"
)

// Result is the verdict in one word.
type Result string

// The results.
const (
	// Trusted: every claim that the policy requires has a word for it, and none
	// has one against it.
	Trusted Result = "trusted"
	// NotTrusted: something is missing that the policy asks for, or was proven
	// otherwise.
	NotTrusted Result = "not-trusted"
	// Unusable: what was given is not evidence, or cannot be judged at all.
	Unusable Result = "unusable"
)

// Status is a claim's in the words of AR4SI (draft-ietf-rats-ar4si, section 2.3).
type Status string

// The statuses, worst first.
const (
	// Contraindicated: proven to be what the policy does not accept.
	Contraindicated Status = "contraindicated"
	// None: nothing can be said.
	None Status = "none"
	// Warning: it rests on a word that the policy chose to accept.
	Warning Status = "warning"
	// Affirming: proven.
	Affirming Status = "affirming"
)

// Reason is one finding.
type Reason struct {
	// Code is stable, for scripts; Subject what it is about: a container, a
	// certificate, a file.
	Code    string `json:"code"`
	Subject string `json:"subject,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Status is what this finding alone would make of the claim.
	Status Status `json:"status"`
}

// Claim is one claim's verdict.
type Claim struct {
	Name    string   `json:"name"`
	Status  Status   `json:"status"`
	Reasons []Reason `json:"reasons"`
	// RestsOn lists on whose word the status stands.
	RestsOn []string `json:"restsOn"`
}

// Verdict is what Appraise says.
type Verdict struct {
	Result Result  `json:"result"`
	Claims []Claim `json:"claims"`
	// Host is the certified name, Class what the CA found the TPM to be; empty
	// while no certificate is believed.
	Host  string `json:"host,omitempty"`
	Class string `json:"class,omitempty"`
	Epoch string `json:"epoch,omitempty"`
	// Namespace and Container say whose view it is; empty for the whole node.
	Namespace string `json:"namespace,omitempty"`
	Container string `json:"container,omitempty"`
	// Proven is the last record that the quote covers; Unproven counts later
	// ones, which claim nothing. Closed counts other tenants' items.
	Proven   uint64 `json:"proven"`
	Unproven uint64 `json:"unproven"`
	Closed   uint64 `json:"closed"`
	Tenants  int    `json:"tenants"`
	// Boot, Agent, Policies and Containers are what the evidence proves, for
	// drawing it.
	Boot       *Boot       `json:"boot,omitempty"`
	Agent      *Agent      `json:"agent,omitempty"`
	Containers []Container `json:"containers"`

	// Next is what to keep for the next time. Where the quote does not hold it is
	// what was kept before, with what was learnt of revocation lists, or nil.
	Next *Checkpoint `json:"-"`
}

// Claim returns a claim by name.
func (v *Verdict) Claim(name string) *Claim {
	for i := range v.Claims {
		if v.Claims[i].Name == name {
			return &v.Claims[i]
		}
	}
	return nil
}

// Has says whether any claim has a reason with the code.
func (v *Verdict) Has(code string) bool {
	return slices.ContainsFunc(v.Claims, func(c Claim) bool {
		return slices.ContainsFunc(c.Reasons, func(r Reason) bool { return r.Code == code })
	})
}

// Names of claims.
const (
	Identity      = "instance-identity"
	Hardware      = "hardware"
	Configuration = "configuration"
	Executables   = "executables"
	FileSystem    = "file-system"
	Freshness     = "freshness"
)

// maxReasons bounds the reasons of one claim; more are counted.
const maxReasons = 64

// bench collects findings.
type bench struct {
	claims map[string]*Claim
	more   map[string]int
	// unusable is set when the input is not evidence.
	unusable bool
}

func newBench() *bench {
	b := &bench{claims: map[string]*Claim{}, more: map[string]int{}}
	for _, n := range trust.Claims {
		b.claims[n] = &Claim{Name: n, Status: None, Reasons: []Reason{}, RestsOn: []string{}}
	}
	return b
}

func (b *bench) add(claim string, s Status, code, subject, hint, format string, args ...any) {
	c := b.claims[claim]
	if len(c.Reasons) == maxReasons {
		// Room is made for what weighs more.
		worst := slices.IndexFunc(c.Reasons, func(r Reason) bool { return rank(r.Status) > rank(s) })
		b.more[claim]++
		if worst < 0 {
			return
		}
		c.Reasons = slices.Delete(c.Reasons, worst, worst+1)
	}
	c.Reasons = append(c.Reasons, Reason{code, subject, fmt.Sprintf(format, args...), hint, s})
}

// refuse says something against a claim.
func (b *bench) refuse(claim, code, subject, hint, format string, args ...any) {
	b.add(claim, Contraindicated, code, subject, hint, format, args...)
}

// warn says that a claim rests on a word the policy accepts.
func (b *bench) warn(claim, code, subject, format string, args ...any) {
	b.add(claim, Warning, code, subject, "", format, args...)
}

// lack says that there is nothing to say for a claim.
func (b *bench) lack(claim, code, hint, format string, args ...any) {
	b.add(claim, None, code, "", hint, format, args...)
}

// affirm says what speaks for a claim, and what that rests on.
func (b *bench) affirm(claim, code, format string, args ...any) {
	b.add(claim, Affirming, code, "", "", format, args...)
}

func (b *bench) rests(claim string, on ...string) {
	c := b.claims[claim]
	for _, o := range on {
		if !slices.Contains(c.RestsOn, o) {
			c.RestsOn = append(c.RestsOn, o)
		}
	}
}

// stands says which claim a finding belongs to that takes the ground from all
// of them; where none is named it is Configuration.
var stands = map[string]string{
	"signature": Identity, "key": Identity, "key-hierarchy": Identity, "quote-signature": Identity, "quote-type": Identity, "quote-malformed": Identity,
	"other-key": Identity, "own-key": Identity, "peer-key": Identity, "other-host": Identity,
	"nonce": Freshness, "own-nonce": Freshness, "ticket": Freshness, "exporter": Freshness, "purpose": Freshness, "binding": Freshness,
	"qualification": Freshness, "tpm-went-back": Freshness, "tpm-clock-back": Freshness,
}

// all says something that all claims stand on: the others are not judged.
func (b *bench) all(code, hint, format string, args ...any) {
	claim, ok := stands[code]
	if !ok {
		claim = Configuration
	}
	b.refuse(claim, code, "", hint, format, args...)
}

// answer refuses, or warns where the policy accepts.
func (b *bench) answer(a trust.Answer, claim, code, subject, hint, format string, args ...any) {
	if a.Yes() {
		b.warn(claim, code, subject, format, args...)
		return
	}
	b.refuse(claim, code, subject, hint, format, args...)
}

func rank(s Status) int {
	return slices.Index([]Status{Contraindicated, None, Warning, Affirming}, s)
}

// broken says whether anything was said against any claim.
func (b *bench) broken() bool {
	for _, c := range b.claims {
		if slices.ContainsFunc(c.Reasons, func(r Reason) bool { return r.Status == Contraindicated }) {
			return true
		}
	}
	return false
}

// close makes the verdict of what was collected.
func (b *bench) close(v *Verdict, p *trust.Policy) {
	v.Result = Trusted
	for _, n := range trust.Claims {
		c := b.claims[n]
		// A claim is as good as the worst that was found about it; without a
		// finding there is nothing to say.
		if len(c.Reasons) > 0 {
			c.Status = Affirming
		}
		for _, r := range c.Reasons {
			if rank(r.Status) < rank(c.Status) {
				c.Status = r.Status
			}
		}
		slices.SortStableFunc(c.Reasons, func(x, y Reason) int { return rank(x.Status) - rank(y.Status) })
		if m := b.more[n]; m > 0 {
			c.Reasons = append(c.Reasons, Reason{"more", "", fmt.Sprintf("%d more findings", m), "", c.Status})
		}
		if c.Status == Contraindicated || (c.Status == None && slices.Contains(p.Require, n)) {
			v.Result = NotTrusted
		}
		v.Claims = append(v.Claims, *c)
	}
	if b.unusable {
		v.Result = Unusable
	}
	if v.Containers == nil {
		v.Containers = []Container{}
	}
}
