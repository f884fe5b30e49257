package channel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/sealift/sealift/attest/verify"
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
	// Verdict is the one that fell or was never good; nil otherwise.
	Verdict *verify.Verdict
	Err     error

	ours bool
}

func (e *Error) Error() string {
	s := fmt.Sprintf("peer %s: %s: %s", e.Peer, e.Phase, e.Reason)
	if e.Hint != "" {
		s += "\nhint: " + e.Hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// fault says in a line why a verdict is not good.
func fault(v *verify.Verdict) (reason, hint string) {
	var all []string
	seen := map[string]bool{}
	for _, c := range v.Claims {
		if c.Status != verify.Contraindicated && c.Status != verify.None {
			continue
		}
		for _, r := range c.Reasons {
			// What everything stands on is said of every claim.
			if r.Status != c.Status || r.Code == "not-judged" || seen[r.Message] {
				continue
			}
			seen[r.Message] = true
			if hint == "" {
				hint = r.Hint
			}
			all = append(all, r.Message)
		}
	}
	if len(all) == 0 {
		return string(v.Result), ""
	}
	return string(v.Result) + ": " + strings.Join(all, "; "), hint
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

// RefusedByPeer says that the peer does not trust this host.
func (e *Error) RefusedByPeer() bool {
	var a *alertError
	return errors.As(e.Err, &a) && a.code == alertNotTrusted
}

// Cut says that the connection ended, and nobody said why.
func (e *Error) Cut() bool {
	return errors.Is(e.Err, io.ErrUnexpectedEOF) || errors.Is(e.Err, net.ErrClosed)
}

// Ours says that the reason lies on this side: no evidence could be made, or
// no verdict.
func (e *Error) Ours() bool { return e.ours }
