package verify_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/verify"
)

// What an earlier run of the agent did stands in the same log: an unknown build
// starts containers, and the good one takes its place before anybody asks.
func TestEarlierAgentCounts(t *testing.T) {
	w := newWorld(t)
	bad := strings.Repeat("ee", 32)
	w.host.agentStart(bad)
	w.host.launch("default", "web")
	w.host.agentStart(goodAgent)
	b := w.host.evidence(ask{nonce: nonce})
	v := w.appraise(b)
	if v.Agent == nil || v.Agent.Executables["sealiftd"] != "sha256:"+goodAgent {
		t.Fatalf("the good agent is not the last: whoever looks at that alone would refuse it anyhow: %s", explain(v))
	}
	refused(t, v, "program-before")
	// It counts for a verifier that has seen it already, too.
	in := w.input(w.host.evidence(ask{nonce: nonce, from: v.Next.Mark.Seq + 1}))
	in.Prior = v.Next
	refused(t, verify.Appraise(in), "program-before")
	w.trust = w.policy(strings.Replace(goodTrust, `["sha256:`+goodAgent, `["sha256:`+bad+`", "sha256:`+goodAgent, 1))
	w.trusted(b)
}

// More builds than are remembered are not forgotten for it.
func TestManyEarlierAgents(t *testing.T) {
	w := newWorld(t)
	listed := `"sha256:` + goodAgent + `"`
	for i := range 70 {
		d := fmt.Sprintf("%064x", i+1)
		w.host.agentStart(d)
		if i < 64 {
			listed += `, "sha256:` + d + `"`
		}
	}
	w.host.agentStart(goodAgent)
	w.trust = w.policy(strings.Replace(goodTrust, `"sha256:`+goodAgent+`"`, listed, 1))
	refused(t, w.appraise(w.host.evidence(ask{nonce: nonce})), "program-before")
}

// Policies are loosened for as long as one start takes.
func TestPolicyLoosenedForOneStart(t *testing.T) {
	w := newWorld(t)
	w.trust = w.policy(strings.Replace(goodTrust, "policies: [pol-1]", "policies: any", 1))
	w.host.launch("default", "web")
	w.trusted(w.host.evidence(ask{nonce: nonce}))
	w.host.add("policy", "", "", raw(`{"set":"loose"}`))
	w.host.launch("default", "evil")
	w.host.add("exit", "default", "evil", raw(`{}`))
	w.host.add("deleted", "default", "evil", raw(`{}`))
	w.host.add("policy", "", "", raw(`{"set":"set-1"}`))
	b := w.host.evidence(ask{nonce: nonce})
	v := w.appraise(b)
	if v.Claim(verify.Configuration).Status == verify.Contraindicated {
		t.Fatalf("the set in effect is not the listed one: %s", explain(v))
	}
	refused(t, v, "container-policy-set")
	w.trust = w.policy(goodTrust) // pol-1 is known, whichever set it was in
	w.trusted(b)
}

// A container that went past Sealift is gone when somebody asks, or containerd
// is.
func TestBypassIsRemembered(t *testing.T) {
	for name, after := range map[string]string{"gone": `{"launched":0}`, "unanswered": `{"launched":0,"unanswered":["containerd"]}`} {
		w := newWorld(t)
		w.host.add("census", "", "", raw(`{"launched":0,"bypassing":[{"namespace":"default","id":"past"}]}`))
		refused(t, w.appraise(w.host.evidence(ask{nonce: nonce})), "bypass")
		w.host.add("census", "", "", raw("%s", after))
		v := w.appraise(w.host.evidence(ask{nonce: nonce}))
		refused(t, v, "bypass")
		if v.Has("census-unanswered") != (name == "unanswered") {
			t.Error(explain(v))
		}
	}
}

// Leaving a revocation list out never makes a verdict better than what the other
// lists say: neither one that is out of date nor one of tomorrow spoils another.
func TestListLeftOut(t *testing.T) {
	w := newWorld(t)
	b := w.host.evidence(ask{nonce: nonce})
	good := w.lists[0]
	for name, other := range map[string][]byte{
		"out of date": w.ca.list(now.Add(-time.Hour), now.Add(-time.Minute)),
		"of tomorrow": w.ca.list(now.Add(24*time.Hour), now.Add(48*time.Hour)),
	} {
		w.lists = [][]byte{other}
		refused(t, w.appraise(b), "revocation-stale")
		w.lists = [][]byte{good}
		alone := w.appraise(b)
		for _, lists := range [][][]byte{{good, other}, {other, good}} {
			w.lists = lists
			if v := w.appraise(b); v.Result != alone.Result {
				t.Errorf("%s: leaving it out makes %s of %s", name, alone.Result, explain(v))
			}
		}
		// What it revokes is revoked all the same.
		w.lists = [][]byte{good, w.ca.list(now.Add(-time.Hour), now.Add(-time.Minute), w.host.certs[0])}
		refused(t, w.appraise(b), "certificate-revoked")
	}
}

// A list that nobody asks for does not lower what was seen.
func TestListNumberIsKept(t *testing.T) {
	w := newWorld(t)
	old := w.lists[0]
	w.lists = [][]byte{w.ca.list(now.Add(-time.Minute), now.Add(24*time.Hour))}
	first := w.trusted(w.host.evidence(ask{nonce: nonce}))
	w.trust = w.policy(strings.Replace(goodTrust, "file: ca.pem", "file: ca.pem\n    revocation: none", 1))
	in := w.input(w.host.evidence(ask{nonce: nonce}))
	in.Prior, in.Revocation = first.Next, [][]byte{old}
	second := verify.Appraise(in)
	if second.Result != verify.Trusted {
		t.Fatal(explain(second))
	}
	w.trust = w.policy(goodTrust)
	in = w.input(w.host.evidence(ask{nonce: nonce}))
	in.Prior, in.Revocation = second.Next, [][]byte{old}
	refused(t, verify.Appraise(in), "revocation-stale")
}
