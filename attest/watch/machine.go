package watch

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/verify"
)

// machine makes states and changes of a series of observations.
type machine struct {
	peer   string
	status Status
	// epoch is the last that a verdict named.
	epoch string
	memory
	// found is what the last verdict said, with what is held against the peer;
	// a look without a verdict leaves it.
	found []Reason
}

// memory is what a machine knows that outlives the watcher.
type memory struct {
	// caught is what the peer was caught at in epoch caughtIn; a good verdict
	// alone does not undo it.
	caught   *Reason
	caughtIn string
}

// sticky are findings that a later good verdict does not explain: who shows
// a history, then another one, then the first again was caught. They come after
// the quote was found to be the peer's, for this channel: nobody else on the way
// can bring them about. Foreign extends are not among them, because the log
// itself remembers these, and the trust policy says what they are worth.
var sticky = []string{
	"tpm-went-back", "tpm-clock-back", "tpm-reset", "pcr-reset",
	"log-rolled-back", "log-forked", "log-altered", "log-empty", "epoch-laundered",
	"bank-unextended", "replay", "channel-key", "closed",
}

func newMachine(peer string) *machine {
	return &machine{peer: peer, status: Status{State: Unknown}}
}

// observe takes in one look and says what is different. Looks come in the
// order of their times.
func (m *machine) observe(o Observation) []Change {
	if m.status.Since.IsZero() {
		m.status.Since = o.At
	}
	if o.Verdict == nil {
		return m.without(o)
	}
	return m.judged(o)
}

// without is a look that gave no verdict. What was found before is neither
// confirmed nor over.
func (m *machine) without(o Observation) []Change {
	code, to, text := AgentStopped, Unreachable, "agent stopped, or cannot be reached"
	var e *channel.Error
	switch refused := errors.As(o.Err, &e) && e.RefusedByPeer(); {
	case o.Ours:
		code, to, text = NotJudged, Unknown, "cannot be judged by this host"
	case refused:
		code, text = RefusedByPeer, "does not trust this host, and proves nothing to it"
	}
	why, hint, _ := strings.Cut(fmt.Sprint(o.Err), "\nhint: ")
	r := Reason{Reason: verify.Reason{Code: code, Message: why, Hint: hint, Status: verify.None}}
	before := m.status
	m.status.Reasons = []Reason{r}
	if before.State == to && len(before.Reasons) == 1 && before.Reasons[0].Code == code {
		return nil
	}
	m.enter(to, o)
	return []Change{{At: o.At, Peer: m.peer, Code: code, Text: text + ": " + why, Hint: hint, From: before.State, To: to}}
}

func (m *machine) judged(o Observation) []Change {
	v, before := o.Verdict, m.status
	found := findings(v)
	to := NotTrusted
	if v.Result == verify.Trusted {
		to = Trusted
		m.release(v)
	}
	m.remember(v, found)
	if v.Epoch != "" {
		m.epoch = v.Epoch
	}
	var changes []Change
	if to == Trusted && m.caught != nil {
		to = NotTrusted
		held := Reason{Claim: m.caught.Claim, Reason: verify.Reason{Code: TrustHeld, Subject: m.caught.Subject, Status: verify.Contraindicated,
			Message: "what it proves now is good, and does not explain what it was caught at: " + m.caught.Message,
			Hint:    "reboot the host, so that a new log begins; or take the peer's entry away and add it again if you know what happened"}}
		found = append([]Reason{held}, found...)
	}
	m.status.Verdict, m.status.Checked = v, o.At

	first := before.Verdict == nil
	entering := to == NotTrusted && before.State != NotTrusted
	old := map[[2]string]Reason{}
	for _, r := range m.found {
		old[about(r)] = r
	}
	for _, r := range found {
		was, had := old[about(r)]
		delete(old, about(r))
		against := r.Status == verify.Contraindicated || to == NotTrusted && r.Status == verify.None
		// What policy accepts from the beginning is no change; one violation
		// more is.
		more := had && r.Code == "violation" && was.Message != r.Message
		if against && (entering || was.Status != r.Status) || more || !had && !first {
			changes = append(changes, Change{At: o.At, Peer: m.peer, Code: r.Code, Subject: r.Subject, Text: name(r), Hint: r.Hint, From: before.State, To: to})
		}
	}
	for _, r := range m.found {
		if _, gone := old[about(r)]; gone && r.Code != TrustHeld {
			changes = append(changes, Change{At: o.At, Peer: m.peer, Code: r.Code, Subject: r.Subject, Text: "over: " + name(r), From: before.State, To: to, Over: true})
		}
	}
	m.status.Reasons, m.found = found, found
	if to != before.State {
		m.enter(to, o)
		if to == Trusted {
			text := "trusted"
			if before.State != Unknown {
				text = "trusted again"
			}
			changes = append(changes, Change{At: o.At, Peer: m.peer, Code: TrustBack, Text: text, From: before.State, To: to})
		}
	}
	// A state never changes without a word.
	if to != before.State && len(changes) == 0 {
		changes = append(changes, Change{At: o.At, Peer: m.peer, Code: string(to), Text: string(v.Result), From: before.State, To: to})
	}
	return changes
}

func (m *machine) enter(s State, o Observation) {
	if m.status.State != s {
		m.status.State, m.status.Since = s, o.At
	}
}

// remember notes what the peer is caught at, and in which epoch; where the
// verdict could not say, in the one it named last.
func (m *machine) remember(v *verify.Verdict, found []Reason) {
	if m.caught != nil {
		if m.caughtIn == "" && v.Result == verify.Trusted {
			m.caughtIn = v.Epoch
		}
		return
	}
	for _, r := range found {
		if r.Status == verify.Contraindicated && slices.Contains(sticky, r.Code) {
			m.caught, m.caughtIn = &r, cmp.Or(v.Epoch, m.epoch)
			return
		}
	}
}

// release undoes that the peer was caught, on a good verdict: with a new epoch,
// whose beginning the verdict has judged against what was proven before; or
// with a state of the log that tells of it, where the trust policy accepts that.
func (m *machine) release(v *verify.Verdict) {
	if m.caught == nil {
		return
	}
	renewed := v.Epoch != "" && m.caughtIn != "" && v.Epoch != m.caughtIn
	word := false
	if c := v.Claim(verify.Configuration); c != nil {
		word = slices.ContainsFunc(c.Reasons, func(r verify.Reason) bool { return slices.Contains(told, r.Code) })
	}
	if renewed || word {
		m.caught, m.caughtIn = nil, ""
	}
}

// told are states of a log that a verdict is good in only where the trust
// policy accepts them: what happened is on record.
var told = []string{"log-foreign", "log-history-lost", "log-recovered"}

// findings are a verdict's, each once, the worst first.
func findings(v *verify.Verdict) []Reason {
	var out []Reason
	seen := map[[2]string]int{}
	for _, c := range v.Claims {
		for _, r := range c.Reasons {
			if r.Status == verify.Affirming || r.Code == "not-judged" {
				continue
			}
			x := Reason{Reason: r, Claim: c.Name}
			if i, ok := seen[about(x)]; ok {
				if weight(r.Status) < weight(out[i].Status) {
					out[i] = x
				}
				continue
			}
			seen[about(x)] = len(out)
			out = append(out, x)
		}
	}
	// Two findings of one thing: the log's state, and what it means for the
	// records before.
	if slices.ContainsFunc(out, func(r Reason) bool { return r.Code == "log-foreign" }) {
		out = slices.DeleteFunc(out, func(r Reason) bool { return r.Code == "log-foreign-extend" })
	}
	slices.SortStableFunc(out, func(a, b Reason) int { return weight(a.Status) - weight(b.Status) })
	return out
}

func weight(s verify.Status) int {
	return slices.Index([]verify.Status{verify.Contraindicated, verify.None, verify.Warning, verify.Affirming}, s)
}

func about(r Reason) [2]string { return [2]string{r.Code, r.Subject} }

// name says a finding in a line, the most wanted ones in fixed words.
func name(r Reason) string {
	text := r.Message
	switch r.Code {
	case "violation":
		if ns, id, ok := strings.Cut(r.Subject, "/"); ok {
			text = fmt.Sprintf("policy violation of %s in %s", id, ns)
		}
	case "log-foreign", "log-foreign-extend":
		text = "foreign extend: " + r.Message
	}
	if r.Status == verify.Warning {
		text += " (accepted by policy)"
	}
	return text
}
