package node

import (
	"fmt"
	"strings"
	"unicode/utf8"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// Bounds of what one answer tells; the event log has bounds of its own.
const (
	maxReasons = 64
	maxText    = 8 << 10
)

// Sendable returns reasons as a message can carry them. File names are bytes
// and protobuf's strings are UTF-8: an answer that names the wrong file must not
// get lost for the bytes of its name. Long texts and lists are cut short.
func Sendable(reasons []*nodev1.Reason) []*nodev1.Reason {
	var out []*nodev1.Reason
	for i, r := range reasons {
		if i == maxReasons {
			out = append(out, &nodev1.Reason{Code: "more", Subject: "reasons", Message: fmt.Sprintf("%d more", len(reasons)-i)})
			break
		}
		out = append(out, &nodev1.Reason{
			Code: sendable(r.GetCode()), Subject: sendable(r.GetSubject()), Message: sendable(r.GetMessage()), Hint: sendable(r.GetHint()),
			Layer: sendable(r.GetLayer()), Path: sendable(r.GetPath()), Wanted: sendable(r.GetWanted()), Found: sendable(r.GetFound()),
		})
	}
	return out
}

func sendable(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}
