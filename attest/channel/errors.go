package channel

import (
	"fmt"
	"strings"
)

// Phase is how far a channel had come.
type Phase string

const (
	PhaseAdmit    Phase = "admission"
	PhaseTLS      Phase = "TLS handshake"
	PhaseHello    Phase = "hello"
	PhaseProve    Phase = "own evidence"
	PhaseEvidence Phase = "peer's evidence"
	PhaseAppraise Phase = "appraisal"
	PhaseOpen     Phase = "open channel"
	PhaseAgain    Phase = "re-attestation"
)

// Error says why there is no channel, or no longer.
type Error struct {
	// Peer is the name that was called, or the address.
	Peer   string
	Phase  Phase
	Reason string
	Hint   string
	// Result is the verdict that fell or was never good; nil otherwise.
	Result *Result
	Err    error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("peer %s: %s: %s", e.Peer, e.Phase, e.Reason)
	if e.Hint != "" {
		s += "\nhint: " + e.Hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Result is what an appraiser found.
type Result struct {
	// Host is the name in the AK's certificate.
	Host   string
	AKName []byte
	// Trusted is the whole verdict; Reasons say why not.
	Trusted bool
	Reasons []Reason
	// Verdict is the appraiser's own, claim by claim.
	Verdict any
}

// Reason is one cause of a verdict.
type Reason struct {
	Code    string
	Subject string
	Message string
	Hint    string
}

func (r *Result) fault() (reason, hint string) {
	if len(r.Reasons) == 0 {
		return "not trusted", ""
	}
	var all []string
	for _, x := range r.Reasons {
		all = append(all, x.Message)
		if hint == "" {
			hint = x.Hint
		}
	}
	return "not trusted: " + strings.Join(all, "; "), hint
}

// alertCode is why a side gives up, in the first byte of an ALERT.
type alertCode byte

const (
	alertProtocol   alertCode = 1
	alertNotTrusted alertCode = 2
	alertUnusable   alertCode = 3
	alertLate       alertCode = 4
	alertBusy       alertCode = 5
	alertInternal   alertCode = 6
)

func (a alertCode) String() string {
	names := [...]string{"", "protocol", "not trusted", "unusable evidence", "late", "busy", "internal"}
	if a > 0 && int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("alert %d", byte(a))
}

// alertError is what the peer said when it gave up; its words are its own.
type alertError struct {
	code alertCode
	text string
}

func (e *alertError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("the peer gave up (%s)", e.code)
	}
	return fmt.Sprintf("the peer gave up (%s): %q", e.code, e.text)
}

func decodeAlert(b []byte) *alertError {
	return &alertError{alertCode(b[0]), printable(string(b[1:]))}
}

func encodeAlert(code alertCode, text string) []byte {
	text = printable(text)
	if len(text) > maxText {
		text = text[:maxText]
	}
	return append([]byte{byte(code)}, text...)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return ' '
		}
		return r
	}, s)
}
