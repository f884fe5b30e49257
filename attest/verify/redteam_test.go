package verify_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/verify"
)

// A host is revoked, its verifier is told so once, and is given the list of the
// day before the next time. Who remembers good verdicts only trusts it again.
func TestRevokedOnceIsRemembered(t *testing.T) {
	w := newWorld(t)
	old := w.lists[0]
	first := w.trusted(w.host.evidence(ask{nonce: nonce}))
	in := w.input(w.host.evidence(ask{nonce: nonce}))
	in.Prior, in.Revocation = first.Next, [][]byte{w.ca.list(now.Add(-time.Minute), now.Add(24*time.Hour), w.host.certs[0])}
	second := verify.Appraise(in)
	refused(t, second, "certificate-revoked")

	in = w.input(w.host.evidence(ask{nonce: nonce}))
	in.Prior, in.Revocation = first.Next, [][]byte{old}
	if v := verify.Appraise(in); v.Result != verify.Trusted {
		t.Fatalf("the attack does not work on who keeps the first state: %s", explain(v))
	}
	if second.Next == nil {
		t.Fatal("nothing of the revocation list is kept")
	}
	in.Prior = second.Next
	refused(t, verify.Appraise(in), "revocation-stale")
	if second.Next.Mark.Seq != first.Next.Mark.Seq || second.Next.Clock != first.Next.Clock {
		t.Errorf("what a revoked host said was kept: %+v", second.Next)
	}
	// What is no evidence at all teaches of lists, and of nothing else; nothing new
	// is nothing to keep.
	in.Evidence = []byte("{}")
	if v := verify.Appraise(in); v.Next != nil {
		t.Errorf("kept %+v", v.Next)
	}
}

// Another CA's list, or one of tomorrow, raises nothing.
func TestListsOfOthersAreNotRemembered(t *testing.T) {
	w := newWorld(t)
	first := w.trusted(w.host.evidence(ask{nonce: nonce}))
	other := newAuthority(t, "platform")
	other.crls = 99
	in := w.input([]byte("{}"))
	in.Prior = first.Next
	w.ca.crls = 50
	in.Revocation = [][]byte{other.list(now.Add(-time.Minute), now.Add(time.Hour)), w.ca.list(now.Add(time.Hour), now.Add(2*time.Hour)), w.ca.list(now.Add(-2*time.Hour), now.Add(-time.Hour)), []byte("nonsense")}
	if v := verify.Appraise(in); v.Next != nil {
		t.Errorf("kept %v", v.Next.Lists)
	}
}

// Whoever may run containers makes more kinds of them than are remembered, the
// bad one last. What is not remembered is accepted under no key of the policy:
// would-refuse answered for all of it once.
func TestBadAmongTooManyKinds(t *testing.T) {
	w := newWorld(t)
	w.trust = w.policy(strings.Replace(goodTrust, "containers:", "containers:\n  would-refuse: accept", 1))
	w.host.launch("default", "web")
	for i := range 1100 {
		id := fmt.Sprint("c", i)
		w.host.add("launch", fmt.Sprint("ns", i), id, raw(`{"image":{"name":"web","manifest":"%s"},"root":{"class":"blob"},"policy":{"digest":"pol-1","content":"enforce"}}`, manifest))
		w.host.add("deleted", fmt.Sprint("ns", i), id, raw("{}"))
	}
	w.host.add("launch", "default", "evil", raw(`{"image":{"name":"evil","manifest":"sha256:%s"},"root":{"class":"blob"},"policy":{"digest":"pol-1","content":"enforce"}}`, strings.Repeat("e", 64)))
	w.host.add("deleted", "default", "evil", raw("{}"))
	v := w.appraise(w.host.evidence(ask{nonce: nonce}))
	if v.Has("image") {
		t.Fatal("the bad one is remembered: this test tests nothing")
	}
	refused(t, v, "more-ended")
}

// A host in audit for a year ends thousands of containers that enforce would have
// refused. They are of few kinds: the policy that accepts them goes on doing so,
// and one that broke its policy is not lost among them.
func TestManyEndedOfOneKind(t *testing.T) {
	w := newWorld(t)
	w.trust = w.policy(strings.Replace(goodTrust, "containers:", "containers:\n  would-refuse: accept", 1))
	end := func(id string, violations int) {
		w.host.add("launch", "default", id, raw(`{"image":{"name":"web","manifest":"%s"},"root":{"class":"blob"},"policy":{"digest":"pol-1","content":"audit"},"would_refuse":[{"code":"layer-content"}]}`, manifest))
		for range violations {
			w.host.add("violation", "default", id, raw("{}"))
		}
		w.host.add("deleted", "default", id, raw("{}"))
	}
	for i := range 1100 {
		end(fmt.Sprint("c", i), 0)
	}
	v := w.trusted(w.host.evidence(ask{nonce: nonce}))
	if v.Has("more-ended") {
		t.Error(explain(v))
	}
	end("worst", 2)
	v = w.appraise(w.host.evidence(ask{nonce: nonce}))
	refused(t, v, "violation")
	w.trust = w.policy(goodTrust)
	refused(t, w.appraise(w.host.evidence(ask{nonce: nonce})), "would-refuse")
}

// One container's proof is asked for, and the container never started through
// Sealift: the namespace's other records are not its proof.
func TestViewOfAContainerNobodyStarted(t *testing.T) {
	w := newWorld(t)
	w.trust = w.policy(strings.Replace(goodTrust, "containers:", "log: {container-view: accept}\ncontainers:", 1))
	w.host.launch("default", "web")
	w.host.add("running", "default", "", raw(`{"containers":["web"]}`))
	for id, want := range map[string]verify.Result{"web": verify.Trusted, "typo": verify.NotTrusted} {
		in := w.input(w.host.evidence(ask{nonce: nonce, namespace: "default", container: id}))
		in.Expect.Namespace, in.Expect.Container = "default", id
		v := verify.Appraise(in)
		if v.Result != want || v.Has("container-unknown") != (want != verify.Trusted) {
			t.Errorf("container %s: %s", id, explain(v))
		}
	}
	// Refused is not started; deleted was.
	w.host.add("refusal", "default", "no", raw(`{"reasons":[]}`))
	w.host.add("deleted", "default", "web", raw(`{}`))
	for id, want := range map[string]bool{"web": false, "no": true} {
		in := w.input(w.host.evidence(ask{nonce: nonce, namespace: "default", container: id}))
		in.Expect.Namespace, in.Expect.Container = "default", id
		if v := verify.Appraise(in); v.Has("container-unknown") != want {
			t.Errorf("container %s: %s", id, explain(v))
		}
	}
}
