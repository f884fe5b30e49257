package verify

import (
	"bytes"
	"errors"
	"maps"
	"time"

	"github.com/sealift/sealift/attest/bootlog"
	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/measure/tpm"
)

// Input is all that a verdict depends on.
type Input struct {
	// Evidence is as it was received.
	Evidence []byte
	Trust    *trust.Policy
	Now      time.Time
	// Prior is the Next of an earlier verdict about the same host and view, or
	// nil. It is the verifier's own: whoever can change it decides the verdict.
	Prior *Checkpoint
	// Revocation lists, DER or PEM, of all CAs in question.
	Revocation [][]byte
	Expect     Expect
}

// Expect is what the verifier itself knows of the exchange. Missing fields are
// not compared for offline evidence; for a channel all must be there.
type Expect struct {
	// Binding is compared with the evidence's: for purpose offline (which empty
	// stands for) its VerifierNonce and Ticket, for purpose channel everything;
	// AKName where it is set.
	Binding evidence.Binding
	// Issued is when the nonce was given out.
	Issued time.Time
	// Namespace and Container are whose view was asked for.
	Namespace, Container string
	// Host is whom the verifier wants to talk to; empty: whom the policy accepts.
	Host string
}

// appraisal is one verdict under way.
type appraisal struct {
	*bench
	in      Input
	p       *trust.Policy
	v       *Verdict
	e       *evidence.Evidence
	key     *key
	class   certificate.Class
	lists   map[string]string
	quote   *quote
	boot    *bootlog.Log
	ima     []imalog.Entry
	trail   *trail
	found   *place
	prior   *Checkpoint
	restart bool
	pcrs    map[int]tpm.Values
	// bootedBy is what the boot log says.
	bootedBy bootlog.Facts
}

// Appraise judges evidence. It is pure and bounded: whatever the input, time is
// linear in its length, and memory a small multiple of it.
func Appraise(in Input) *Verdict {
	a := &appraisal{bench: newBench(), in: in, p: in.Trust, v: &Verdict{}, prior: in.Prior, lists: map[string]string{}}
	if in.Prior != nil {
		maps.Copy(a.lists, in.Prior.Lists)
	}
	if a.p == nil {
		a.p = trust.Strictest()
	}
	a.run()
	a.remember()
	a.close(a.v, a.p)
	return a.v
}

// run goes from what everything stands on to what stands on it; where something
// does not hold, what stands on it is not looked at.
func (a *appraisal) run() {
	var err error
	if a.e, err = evidence.Decode(a.in.Evidence); err != nil {
		a.unusable = true
		a.all("malformed", "", "%v", err)
		return
	}
	if err := a.e.VerifySignature(); err != nil {
		a.all("signature", "ask for the evidence again; what was carried here is not what the agent wrote", "%v", err)
		return
	}
	for _, stage := range []func(){a.keyTrust, a.quoted, a.bound, a.logs, a.replay} {
		if stage(); a.broken() {
			a.unjudged()
			return
		}
	}
	if a.past(); a.broken() {
		a.v.Proven, a.v.Unproven = 0, 0
		a.unjudged()
		return
	}
	a.judge()
	a.v.Next = a.next()
}

// unjudged says of the claims nothing was said about that nothing was looked at.
func (a *appraisal) unjudged() {
	for n, c := range a.claims {
		if len(c.Reasons) == 0 {
			a.lack(n, "not-judged", "", "what it would rest on does not hold")
		}
	}
}

// quoted checks the quote's signature and that a TPM made it, for this key, in
// the endorsement hierarchy.
func (a *appraisal) quoted() {
	q := a.e.Quote
	if err := a.key.signed(q.Message, q.Signature); err != nil {
		a.all("quote-signature", "", "the quote's signature %v", err)
		return
	}
	var err error
	a.quote, err = parseQuote(q.Message)
	switch {
	case errors.Is(err, errMagic), errors.Is(err, errType):
		a.all("quote-type", "", "what the key signed %v", err)
	case err != nil:
		a.all("quote-malformed", "", "quote: %v", err)
	case !bytes.Equal(a.quote.signer, a.key.qualified()):
		a.all("key-hierarchy", "enrol again with this version's agent", "the quote's key is not a primary key of the endorsement hierarchy: another hierarchy's holder can hide resets")
	}
}

// bound compares what the quote is for with what it should be for.
func (a *appraisal) bound() {
	b, err := a.e.Binding()
	if err != nil {
		a.all("key", "", "%v", err)
		return
	}
	q := evidence.Qualification(b)
	if !bytes.Equal(a.quote.extra, q[:]) {
		a.all("qualification", "", "the quote is for another purpose, channel, nonce or key than the evidence says")
		return
	}
	w := a.in.Expect.Binding
	if w.Purpose == "" {
		w.Purpose = evidence.Offline
	}
	if b.Purpose != w.Purpose {
		a.all("purpose", "", "evidence for purpose %s; %s was wanted", b.Purpose, w.Purpose)
		return
	}
	compare := func(code, what string, want, got []byte) {
		if !bytes.Equal(want, got) {
			a.all(code, "", "it is for another %s: this is somebody else's evidence, or an old one", what)
		}
	}
	if len(w.AKName) > 0 {
		compare("other-key", "attestation key", w.AKName, b.AKName)
	}
	compare("ticket", "ticket", w.Ticket, b.Ticket)
	if w.Purpose == evidence.Channel {
		if len(b.Exporter) == 0 || len(b.VerifierNonce) == 0 || len(b.OwnNonce) == 0 || len(b.PeerSPKI) == 0 {
			a.all("binding", "", "evidence for a channel is bound to none")
		}
		compare("exporter", "channel", w.Exporter, b.Exporter)
		compare("nonce", "nonce of the verifier", w.VerifierNonce, b.VerifierNonce)
		compare("own-nonce", "nonce of the peer", w.OwnNonce, b.OwnNonce)
		compare("own-key", "channel key", w.OwnSPKI, b.OwnSPKI)
		compare("peer-key", "channel key of the verifier", w.PeerSPKI, b.PeerSPKI)
	} else {
		if len(b.Exporter) > 0 || len(b.PeerSPKI) > 0 {
			a.all("binding", "", "offline evidence is bound to a channel")
		}
		if len(w.VerifierNonce) > 0 {
			compare("nonce", "nonce", w.VerifierNonce, b.VerifierNonce)
		}
	}
	if e := a.e.Log; e.Namespace != a.in.Expect.Namespace || e.Container != a.in.Expect.Container {
		a.all("view", "say whose view it is: --namespace, --container", "it is the view of %s, not of %s", view(e.Namespace, e.Container), view(a.in.Expect.Namespace, a.in.Expect.Container))
	}
	a.v.Namespace, a.v.Container = a.e.Log.Namespace, a.e.Log.Container
}

func view(namespace, container string) string {
	switch {
	case namespace == "":
		return "the whole node"
	case container == "":
		return "namespace " + namespace
	}
	return "container " + namespace + "/" + container
}

// logs parses the two logs of boot; nothing of them is believed yet.
func (a *appraisal) logs() {
	var err error
	if len(a.e.Boot) > 0 {
		if a.boot, err = bootlog.Parse(a.e.Boot); err != nil {
			a.all("boot-log-malformed", "", "%v", err)
		}
	}
	if len(a.e.IMA) > 0 {
		if a.ima, err = imalog.Parse(a.e.IMA); err != nil {
			a.all("ima-log-malformed", "", "%v", err)
		}
	}
}
