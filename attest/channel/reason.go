package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/sealift/sealift/attest/verify"
)

// explain makes an *Error of a cause.
func (c *Conn) explain(p Phase, cause error) *Error {
	var e *Error
	if errors.As(cause, &e) {
		return e
	}
	e = &Error{Peer: c.peer, Phase: p, Reason: cause.Error(), Err: cause}
	var bad *protocolError
	var alert *alertError
	switch {
	case errors.As(cause, &alert) && alert.code == alertNotTrusted:
		e.Hint = "the peer does not trust this host: `sealift verify` this host's own evidence with the peer's trust policy"
	case errors.As(cause, &alert) && alert.code == alertBusy:
		e.Hint = "try again later; the peer's limits are in its configuration"
	case errors.As(cause, &alert):
		e.Hint = "the peer's own journal says more"
	case errors.Is(cause, errBusy):
		e.Hint = "try again later, or raise the limit in the configuration"
	case errors.Is(cause, context.DeadlineExceeded), errors.Is(cause, os.ErrDeadlineExceeded):
		e.Reason = fmt.Sprintf("no answer in time (%v)", cause)
		e.Hint = "is the peer's agent running, and its TPM answering?"
	case errors.Is(cause, io.ErrUnexpectedEOF):
		e.Reason = "the connection was cut off"
		e.Hint = "is the peer's agent running? its journal says why it hung up"
	case errors.As(cause, &bad):
		e.Hint = "is the peer a Sealift agent of a version that speaks " + Protocol + "?"
	}
	return e
}

// alertFor is what a peer is told of a cause; nothing if it was the cause.
func alertFor(cause error) (alertCode, bool) {
	var (
		bad   *protocolError
		alert *alertError
		e     *Error
		n     net.Error
	)
	switch {
	case errors.As(cause, &alert), errors.Is(cause, io.ErrUnexpectedEOF), errors.Is(cause, net.ErrClosed):
		return 0, false
	case errors.As(cause, &bad):
		return alertProtocol, true
	case errors.As(cause, &e) && e.Verdict != nil && e.Verdict.Result == verify.Unusable:
		return alertUnusable, true
	case errors.As(cause, &e) && e.Verdict != nil:
		return alertNotTrusted, true
	case errors.As(cause, &e) && e.ours:
		return alertInternal, true
	case errors.Is(cause, errBusy):
		return alertBusy, true
	case errors.Is(cause, context.DeadlineExceeded):
		return alertLate, true
	case errors.As(cause, &n):
		return 0, false
	}
	return alertInternal, true
}

// said is what of a reason is for the peer to know: not what troubles this
// host.
func said(code alertCode, e *Error) string {
	if code == alertInternal {
		return ""
	}
	return e.Reason
}
