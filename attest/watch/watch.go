// Package watch is one host watching another: it keeps an attested channel to
// it, has it prove itself again and again, and tells by name what changes.
//
// What a series of verdicts amounts to is machine.go's to say, which knows
// neither network nor clock; watcher.go is the loop around it.
package watch

import (
	"time"

	"github.com/sealift/sealift/attest/verify"
)

// State is how a peer stands.
type State string

// The states. Only Trusted is good.
const (
	// Unknown: it was not looked at yet, or this host cannot judge it.
	Unknown State = "unknown"
	Trusted State = "trusted"
	// NotTrusted: there is a verdict, and it is not good; or a good one, after
	// one that it does not explain.
	NotTrusted State = "not-trusted"
	// Unreachable: no verdict is to be had. What the peer is doing, nobody
	// knows.
	Unreachable State = "unreachable"
)

// Observation is one look at a peer.
type Observation struct {
	At time.Time
	// Verdict is nil where none was to be had; Err says why.
	Verdict *verify.Verdict
	Err     error
	// Ours is true if the reason lies on this side: a trust policy that cannot
	// be read, say.
	Ours bool
}

// Status is how a peer stands, and since when.
type Status struct {
	State State
	// Since is when the state began, Checked when the last verdict was made.
	Since, Checked time.Time
	// Reasons say why, each once; under Trusted they are what policy accepts.
	Reasons []Reason
	// Verdict is the last there was.
	Verdict *verify.Verdict
}

// Reason is a finding about the peer, said once however many claims it touches.
type Reason struct {
	verify.Reason
	Claim string
}

// Change is one thing that is different now.
type Change struct {
	At   time.Time
	Peer string
	// Code is a finding's (verify.Reason), or one of Agent…, Trust….
	Code    string
	Subject string
	// Text is for a person: one line, by name.
	Text string
	Hint string
	// From and To differ where the state changed with it.
	From, To State
	// Over is true of a finding that is no longer there.
	Over bool
}

// Codes of changes that no verdict has.
const (
	// AgentStopped: the agent does not answer, or the way to it is cut.
	AgentStopped = "agent-stopped"
	// RefusedByPeer: the peer does not trust this host.
	RefusedByPeer = "refused-by-peer"
	// NotJudged: this host cannot judge.
	NotJudged = "cannot-judge"
	// TrustBack: the peer is trusted, for the first time or again.
	TrustBack = "trusted"
	// TrustHeld: a verdict is good, and the one before is not explained by it.
	TrustHeld = "trust-held"
)
