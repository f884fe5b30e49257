package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sealift/sealift/measure/eventlog"
)

// logSummary is what one of the log's own records says, for a person.
func logSummary(r *eventlog.Record) (string, bool) {
	var b struct {
		State, Cause, Reason, Class, Type, Unknown string
		Of, Count, Lines                           uint64
		Containers                                 []string
		Expected, Found                            map[string]string
	}
	switch r.Type {
	case "log-epoch", "log-foreign", "log-acknowledged", "log-recovered", "log-coalesced", "log-unproven", "log-unavailable":
		if json.Unmarshal(r.Body, &b) != nil {
			return "", false
		}
	}
	switch r.Type {
	case "log-epoch":
		return strings.TrimSuffix(fmt.Sprintf("%s TPM, %s: %s", b.Class, b.State, b.Reason), ": "), true
	case "log-foreign":
		return fmt.Sprintf("the PCR was found at %s instead of %s", brief(b.Found), brief(b.Expected)), true
	case "log-acknowledged":
		return fmt.Sprintf("state %s, in an operator's words: %s", b.State, b.Reason), true
	case "log-recovered":
		return fmt.Sprintf("%d lines were written and never extended; they claim nothing", b.Lines), true
	case "log-coalesced":
		return fmt.Sprintf("%d more of type %s, as record %d (%s)", b.Count, b.Type, b.Of, b.Reason), true
	case "log-unproven":
		if b.Unknown != "" {
			return "what was running is unknown: " + b.Unknown, true
		}
		return "running, and not started in this log: " + strings.Join(b.Containers, ", "), true
	case "log-unavailable":
		return fmt.Sprintf("nothing could be recorded for a time: %s: %s", b.Cause, firstLine(b.Reason)), true
	}
	return "", false
}

// brief is one bank's value, SHA-256's where there is one.
func brief(values map[string]string) string {
	if v, ok := values["sha256"]; ok {
		return short("sha256:" + v)
	}
	for _, bank := range sortedKeys(values) {
		return short(bank + ":" + values[bank])
	}
	return "nothing"
}
