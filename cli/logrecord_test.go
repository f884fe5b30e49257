package cli

import (
	"testing"

	"github.com/sealift/sealift/measure/eventlog"
)

// The bodies are as docs/event-log.md has them.
func TestLogSummary(t *testing.T) {
	for _, c := range []struct{ kind, body, want string }{
		{"log-epoch", `{"class":"software","state":"trusted","reason":""}`, "software TPM, trusted"},
		{"log-epoch", `{"class":"software","state":"tpm-reset","reason":"again"}`, "software TPM, tpm-reset: again"},
		{"log-foreign", `{"expected":{"sha256":"0011223344556677"},"found":{"sha1":"aa","sha256":"ff11223344556677"}}`, "the PCR was found at sha256:ff1122334455… instead of sha256:001122334455…"},
		{"log-foreign", `{"expected":{"sha1":"00"},"found":{}}`, "the PCR was found at nothing instead of sha1:00"},
		{"log-acknowledged", `{"state":"foreign","cause":"foreign-extend","seen":9,"reason":"it was me"}`, "state foreign, in an operator's words: it was me"},
		{"log-recovered", `{"epoch":"00","file":"tail-7-0","sha256":"00","bytes":12,"lines":3}`, "3 lines were written and never extended; they claim nothing"},
		{"log-coalesced", `{"of":7,"type":"exec","count":41,"first":"2026-01-02T03:04:05.000000006Z","last":"2026-01-02T03:04:05.000000006Z","reason":"repeated"}`, "41 more of type exec, as record 7 (repeated)"},
		{"log-unproven", `{"containers":["a","b"]}`, "running, and not started in this log: a, b"},
		{"log-unproven", `{"containers":null,"unknown":"no answer"}`, "what was running is unknown: no answer"},
		{"log-unavailable", `{"cause":"tpm","reason":"gone\nhint: x","from":"2026-01-02T03:04:05.000000006Z","until":"2026-01-02T03:04:05.000000006Z","refused":2}`, "nothing could be recorded for a time: tpm: gone"},
	} {
		if got, ok := logSummary(&eventlog.Record{Type: c.kind, Body: eventlog.Raw(c.body)}); !ok || got != c.want {
			t.Errorf("%s %s:\n%q, want\n%q", c.kind, c.body, got, c.want)
		}
	}
	for _, c := range []struct{ kind, body string }{{"launch", `{}`}, {"log-novel", `{}`}, {"log-epoch", `[]`}} {
		if got, ok := logSummary(&eventlog.Record{Type: c.kind, Body: eventlog.Raw(c.body)}); ok {
			t.Errorf("%s: %q", c.kind, got)
		}
	}
}
