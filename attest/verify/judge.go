package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/measure/eventlog"
)

// judge says what the proven facts are worth to the policy.
func (a *appraisal) judge() {
	a.judgeIdentity()
	a.judgeFreshness()
	a.judgeLog()
	a.judgeBoot()
	a.judgeAgent()
	a.judgeContainers()
	f := a.trail.facts
	a.v.Agent = f.Agent
	for _, k := range sortedKeys(f.Boxes) {
		a.v.Containers = append(a.v.Containers, *f.Boxes[k])
	}
	a.v.Containers = append(a.v.Containers, f.Ended...)
	for _, k := range sortedKeys(f.Past) {
		a.v.Containers = append(a.v.Containers, *f.Past[k])
	}
	for _, n := range f.Closed {
		a.v.Closed += n
	}
	a.v.Tenants = len(f.Closed)
}

func (a *appraisal) judgeIdentity() {
	switch a.class {
	case certificate.Hardware:
		a.affirm(Hardware, "hardware-tpm", "the TPM is a maker's hardware")
		a.affirm(Identity, "enrolled", "the key that quotes is in the TPM that was enrolled as %s", a.v.Host)
	case certificate.Software:
		a.warn(Hardware, "software-tpm", a.v.Host, "a software TPM: nothing of this is in hardware; accepted by policy")
		a.warn(Identity, "software-tpm", a.v.Host, "a software TPM's identity can be copied: a copy would say the same; accepted by policy")
	default:
		a.warn(Hardware, "class-accepted", a.v.Host, "a TPM of class %s, accepted by policy", a.class)
		a.affirm(Identity, "enrolled", "the key that quotes is in the TPM that was enrolled as %s", a.v.Host)
	}
}

func (a *appraisal) judgeFreshness() {
	w := a.in.Expect
	switch age := a.in.Now.Sub(w.Issued); {
	case len(w.Binding.VerifierNonce) == 0:
		a.answer(a.p.Nonce, Freshness, "freshness-unproven", "", "give the host a nonce (sealift attest --nonce) and name it here (--nonce)",
			"without a nonce of yours it may be of any time since the host was booted")
	case !w.Issued.IsZero() && (age > a.p.MaxAge || age < -a.p.ClockSkew):
		a.refuse(Freshness, "nonce-old", "", "ask again", "the nonce was given out %v ago; no more than %v is accepted", age, a.p.MaxAge)
	default:
		a.affirm(Freshness, "nonce", "it was made after the nonce was given out")
		a.rests(Freshness, "the verifier's nonce")
	}
	if a.class == certificate.Software && a.restart {
		a.warn(Freshness, "software-tpm-restarted", a.v.Host, "a software TPM that was restarted may be an older copy of itself")
	}
	if !a.quote.safe && a.prior != nil {
		a.warn(Freshness, "tpm-clock-unsafe", a.v.Host, "the TPM was not shut down in order: its clock may have gone back a little")
	}
}

// judgeLog judges what the event log says of itself where the quote stands.
func (a *appraisal) judgeLog() {
	s, st := a.trail.replay.Start(), a.standing()
	f := a.trail.facts
	on := "the agent that wrote the event log: the TPM proves that nothing was changed since, not that it was true"
	a.rests(Configuration, on)
	a.rests(FileSystem, on)
	if s.Previous != nil && s.Previous.BootID != s.BootID && s.Previous.ResetCount == s.ResetCount && s.Previous.Instance == s.Instance {
		a.add(Configuration, stateStatus(a.p, st), "kexec", a.v.Host, "only a reset of the machine makes its PCRs mean one boot again",
			"the kernel was replaced without a reset of the TPM (kexec): PCRs of before and after are one")
	}
	switch code := "log-" + string(st.State); {
	case slices.Contains(a.p.LogStates, string(st.State)):
		a.affirm(Configuration, code, "the event log leads to what the TPM signed, records %d to %d; it is %s", st.ProvenFrom, a.v.Proven, st.State)
	case st.Acknowledged && a.p.Acknowledged.Yes():
		a.warn(Configuration, code, string(st.Cause), "the log is %s (%s: %s); an operator's word covers it, and the policy accepts that", st.State, st.Cause, st.Reason)
	default:
		a.refuse(Configuration, code, string(st.Cause), "find out what happened on the host: sealift log; only a reboot makes a log trusted again", "the log says of itself that it is %s (%s): %s", st.State, st.Cause, st.Reason)
	}
	if st.ProvenFrom > 1 && !slices.Contains(a.p.LogStates, string(eventlog.Foreign)) && !(st.Acknowledged && a.p.Acknowledged.Yes()) {
		a.refuse(Configuration, "log-foreign-extend", "", "", "somebody else extended the log's PCR; what stands before record %d does not follow from it", st.ProvenFrom)
	}
	if f.Silent > 0 {
		a.warn(Configuration, "log-unavailable", a.v.Host, "%d times the log could not record for a while; under enforce nothing was started in them", f.Silent)
	}
	if len(f.Strange) > 0 {
		a.answer(a.p.UnknownRecords, Configuration, "record-unknown", strings.Join(f.Strange, ","), "use a newer sealift verify",
			"the log holds records this program does not know: %s", strings.Join(f.Strange, ", "))
	}
	a.ownClosed(f)
}

// stateStatus is how much a remark on a state weighs.
func stateStatus(p *trust.Policy, st eventlog.Standing) Status {
	if slices.Contains(p.LogStates, string(st.State)) || (st.Acknowledged && p.Acknowledged.Yes()) {
		return Warning
	}
	return Contraindicated
}

// standing is the log's word on itself at the quote's place.
func (a *appraisal) standing() eventlog.Standing {
	if a.found.step != nil {
		return a.found.step.Standing
	}
	if a.prior != nil && a.e.Log.From > 1 {
		m := a.prior.Mark
		return eventlog.Standing{State: m.State, Cause: m.Cause, Reason: m.Reason, Acknowledged: m.Word, ProvenFrom: m.ProvenFrom}
	}
	s := a.trail.replay.Start()
	return eventlog.Standing{State: s.State, Cause: s.Cause, Reason: s.Reason, ProvenFrom: 1}
}

// ownClosed finds closed items of the namespace whose view it is: they bear the
// pseudonym that its open items do.
func (a *appraisal) ownClosed(f *facts) {
	ns := a.e.Log.Namespace
	if ns == "" {
		return
	}
	blind, ok := f.Blind[ns]
	if !ok {
		a.lack(FileSystem, "nothing-shown", "is the namespace spelt as containerd has it?", "no record of namespace %s is open: nothing is proven of it, not even that there is none", ns)
		return
	}
	if id := a.e.Log.Container; id != "" && !f.tells(ns, id) {
		a.lack(FileSystem, "container-unknown", "is the container's ID whole, and spelt as containerd has it?", "no record says that container %s was started through Sealift in namespace %s: nothing is proven of it", id, ns)
	}
	n := f.Closed[eventlog.Pseudonym(a.trail.replay.Start().Epoch, blind, ns).String()]
	switch {
	case n == 0:
		a.affirm(FileSystem, "view-complete", "no record of namespace %s is missing", ns)
	case a.e.Log.Container == "":
		a.refuse(FileSystem, "view-incomplete", ns, "ask for the evidence again; somebody closed records that are yours", "%d records of namespace %s are closed", n, ns)
	default:
		a.answer(a.p.Views, FileSystem, "container-view", a.e.Log.Container, "ask for the namespace's view, or accept it: log: container-view: accept",
			"%d records of namespace %s are closed; that none of them is about container %s is the agent's word", n, ns, a.e.Log.Container)
	}
}

func (a *appraisal) judgeAgent() {
	f, p := a.trail.facts, a.p
	if f.Agent == nil {
		if a.e.Log.Namespace != "" {
			a.lack(Executables, "agent-closed", "ask for the evidence again", "the record that says which agent wrote this log is closed")
		} else {
			a.refuse(Executables, "agent-missing", "", "", "no record says which agent wrote this log")
		}
	} else {
		a.judgeChannelKey(f.Agent)
		a.judgePrograms(f.Agent)
	}
	if vouched := a.judgeIMA(f.Agent); !vouched {
		a.answer(p.Agent.SelfReported, Executables, "self-reported", a.v.Host, "boot the host with "+strings.Join(p.IMA.Policies, " or ")+", or accept the agent's own word: agent: self-reported: accept",
			"which Sealift this is, only Sealift says")
	}
	switch {
	case f.Set == "":
		if a.e.Log.Namespace == "" {
			a.refuse(Configuration, "policy-set", "", "", "no record says which workload policies are in effect")
		}
	case p.Agent.PolicySets.Has(f.Set):
		a.affirm(Configuration, "policy-set", "workload policies %s are in effect", f.Set)
	default:
		a.refuse(Configuration, "policy-set", f.Set, "list it under agent: policy-sets:, if you know it", "workload policies %s are in effect; the policy does not list them", f.Set)
	}
}

// judgeChannelKey compares the key that signed the evidence with the one the
// running agent put on record when it started.
func (a *appraisal) judgeChannelKey(g *Agent) {
	if d := sha256.Sum256(a.e.SPKI.Own); g.ChannelKey != hex.EncodeToString(d[:]) {
		a.refuse(Identity, "channel-key", g.ChannelKey, "restart sealiftd; if it comes again, another program speaks with the TPM in its place",
			"the evidence is signed with a key that the agent did not put on record when it started")
	}
}

func (a *appraisal) judgePrograms(g *Agent) {
	for _, name := range sortedKeys(g.Executables) {
		set, named := a.p.Agent.Executables[name]
		switch d := g.Executables[name]; {
		case named && set.Has(d):
			a.affirm(Executables, "program", "%s is %s", name, short(d))
		default:
			a.refuse(Executables, "program", name, "list it under agent: executables:, if you know it", "%s is %s; the policy does not list it", name, d)
		}
	}
	for _, name := range sortedKeys(a.trail.facts.Ran) {
		for _, d := range a.trail.facts.Ran[name] {
			if set := a.p.Agent.Executables[name]; d != g.Executables[name] && !set.Has(d) {
				a.refuse(Executables, "program-before", name, "list it under agent: executables: too, if you know it; a reboot begins a new log", "%s was %s when an earlier run of the agent wrote this log; the policy does not list it", name, d)
			}
		}
	}
	for _, name := range sortedKeys(a.p.Agent.Executables) {
		if _, ok := g.Executables[name]; !ok && !a.p.Agent.Executables[name].Any {
			a.refuse(Executables, "program-missing", name, "", "the agent names no %s; the policy lists one", name)
		}
	}
}

func (a *appraisal) judgeContainers() {
	f, p := a.trail.facts, a.p.Containers
	for _, k := range sortedKeys(f.Boxes) {
		a.judgeContainer(f.Boxes[k])
	}
	for i := range f.Ended {
		a.judgeContainer(&f.Ended[i])
	}
	ended := uint64(len(f.Ended)) + f.Lost
	for _, k := range sortedKeys(f.Past) {
		a.judgeContainer(f.Past[k])
		ended += f.Past[k].Count
	}
	if f.Lost > 0 {
		a.refuse(FileSystem, "more-ended", a.v.Host, "a reboot begins a new log", "%d more containers that have ended are not remembered: they were of more kinds than can be, and anything may have been against them", f.Lost)
	}
	if len(f.Bypassing) > 0 {
		a.answer(p.Bypass, FileSystem, "bypass", strings.Join(f.Bypassing, ","), "start them with Sealift's runtime; that they ran is forgotten with the next boot", "%d containers of the host did not start through Sealift: %s", len(f.Bypassing), strings.Join(f.Bypassing, ", "))
	}
	if len(f.Uncounted) > 0 {
		a.warn(FileSystem, "census-unanswered", strings.Join(f.Uncounted, ","), "whether all containers started through Sealift was not to be found out: %s did not answer", strings.Join(f.Uncounted, ", "))
	}
	if len(f.Unproven) > 0 || f.Unknown {
		a.answer(p.Unproven, FileSystem, "unproven", strings.Join(f.Unproven, ","), "start them anew", "containers ran when this log began without a record of their start: %s", strings.Join(f.Unproven, ", "))
	}
	a.affirm(FileSystem, "containers", "%d containers are on record, %d that have ended, and %d starts that were refused", len(f.Boxes), ended, f.Refused)
}

func (a *appraisal) judgeContainer(c *Container) {
	p, name := a.p.Containers, c.Namespace+"/"+c.ID
	if len(c.WouldRefuse) > 0 {
		a.answer(p.WouldRefuse, FileSystem, "would-refuse", name, "under enforce it does not start; or accept it: containers: would-refuse: accept",
			"container %s was started although enforce would have refused it: %s", name, strings.Join(c.WouldRefuse, ", "))
	}
	if c.Violations > 0 {
		a.answer(p.Violations, FileSystem, "violation", name, "sealift log "+c.ID, "container %s broke its policy (%d times)", name, c.Violations)
	}
	if c.State == "unproven" {
		return
	}
	switch {
	case c.Manifest == "":
		a.answer(answer(p.Images.Any), FileSystem, "no-image", name, "", "container %s stands on no image that was checked", name)
	case !p.Images.Has(c.Manifest):
		a.refuse(FileSystem, "image", name, "list it under containers: images:, if it may run there", "container %s is of image %s (%s), which the policy does not list", name, c.Manifest, c.Image)
	}
	if !p.Policies.Has(c.Policy) {
		a.refuse(FileSystem, "container-policy", name, "list it under containers: policies:", "container %s runs under policy %s, which the trust policy does not list", name, c.Policy)
	}
	// Where any policy of a container's own will do, the sets are all there is to go by.
	if p.Policies.Any && c.Set != "" && !a.p.Agent.PolicySets.Has(c.Set) {
		a.refuse(FileSystem, "container-policy-set", name, "list the set under agent: policy-sets:, if you know it, or the containers' own policies under containers: policies:", "container %s was started while workload policies %s were in effect, which the policy does not list", name, c.Set)
	}
	switch {
	case c.Class == "unmeasured" || c.Content == "off":
		a.answer(p.Unmeasured, FileSystem, "unmeasured", name, "", "the content of container %s was not measured", name)
	case c.Class != "" && !slices.Contains(p.Bindings, c.Class):
		a.refuse(FileSystem, "binding", name, "list the class under containers: bindings:, or store the image so that it is bound more strongly", "layers of container %s are bound by class %s", name, c.Class)
	}
}

func answer(yes bool) trust.Answer {
	if yes {
		return trust.Accept
	}
	return trust.Reject
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func short(digest string) string {
	if len(digest) > 20 {
		return digest[:19] + "…"
	}
	return digest
}
