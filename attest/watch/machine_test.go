package watch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
)

// verdict makes one of findings "claim code subject message"; a "~" before the
// claim is a warning, "+" something affirmed.
func verdict(epoch string, found ...string) *verify.Verdict {
	v := &verify.Verdict{Result: verify.Trusted, Epoch: epoch, Host: "b"}
	for _, name := range trust.Claims {
		c := verify.Claim{Name: name, Status: verify.Affirming}
		for _, f := range found {
			part := strings.SplitN(f, " ", 4)
			status := verify.Contraindicated
			switch part[0][0] {
			case '~':
				status, part[0] = verify.Warning, part[0][1:]
			case '+':
				status, part[0] = verify.Affirming, part[0][1:]
			}
			if part[0] != name && part[0] != "all" {
				continue
			}
			c.Reasons = append(c.Reasons, verify.Reason{Code: part[1], Subject: strings.Trim(part[2], "-"), Message: part[3], Status: status})
			if status == verify.Contraindicated {
				v.Result = verify.NotTrusted
				c.Status = status
			}
		}
		v.Claims = append(v.Claims, c)
	}
	return v
}

const (
	violation1 = "file-system violation default/web container default/web broke its policy 1 times"
	violation2 = "file-system violation default/web container default/web broke its policy 2 times"
	accepted   = "~file-system violation default/web container default/web broke its policy 1 times"
	accepted2  = "~file-system violation default/web container default/web broke its policy 2 times"
	selfWord   = "~executables self-reported b which Sealift this is, only Sealift says"
	foreign    = "configuration log-foreign extended the log says of itself that it is foreign"
	word       = "~configuration log-foreign extended the log is foreign; an operator's word covers it"
	rolledBack = "all log-rolled-back - the log proves record 5; it proved record 9 before"
	strange    = "file-system image default/db container default/db is of image x"
)

// TestSeries runs series of looks: what each changes, by name, and the state
// after it.
func TestSeries(t *testing.T) {
	type look struct {
		v     *verify.Verdict
		err   error
		ours  bool
		state State
		want  []string
	}
	good, next := verdict("e1", "+hardware tpm - fine"), verdict("e2")
	gone := errors.New("dial tcp: connection refused")
	for name, looks := range map[string][]look{
		"nothing happens": {
			{v: good, state: Trusted, want: []string{"trusted"}},
			{v: good, state: Trusted},
			{v: verdict("e1", "+hardware tpm - fine", "+file-system containers - more"), state: Trusted},
		},
		"what policy accepts from the beginning is not told": {
			{v: verdict("e1", selfWord), state: Trusted, want: []string{"trusted"}},
			{v: verdict("e1", selfWord, accepted), state: Trusted, want: []string{"policy violation of web in default (accepted by policy)"}},
			{v: verdict("e1", selfWord), state: Trusted, want: []string{"over: policy violation of web in default (accepted by policy)"}},
		},
		"violation": {
			{v: good, state: Trusted, want: []string{"trusted"}},
			{v: verdict("e1", violation1), state: NotTrusted, want: []string{"policy violation of web in default"}},
			{v: verdict("e1", violation1), state: NotTrusted},
			{v: verdict("e1", violation2), state: NotTrusted, want: []string{"policy violation of web in default"}},
			{v: verdict("e1", violation2, strange), state: NotTrusted, want: []string{"container default/db is of image x"}},
			// The trust policy accepts it from here on.
			{v: verdict("e1", accepted2), state: Trusted, want: []string{"over: container default/db is of image x", "trusted again"}},
		},
		"accepted violation that no longer is": {
			{v: verdict("e1", accepted), state: Trusted, want: []string{"trusted"}},
			{v: verdict("e1", violation1), state: NotTrusted, want: []string{"policy violation of web in default"}},
		},
		"agent stops and comes back": {
			{v: good, state: Trusted, want: []string{"trusted"}},
			{err: gone, state: Unreachable, want: []string{"agent stopped, or cannot be reached: dial tcp: connection refused"}},
			{err: gone, state: Unreachable},
			{err: errors.New("no route to host"), state: Unreachable},
			{v: good, state: Trusted, want: []string{"trusted again"}},
		},
		"silence proves nothing over": {
			{v: verdict("e1", violation1), state: NotTrusted, want: []string{"policy violation of web in default"}},
			{err: gone, state: Unreachable, want: []string{"agent stopped, or cannot be reached: dial tcp: connection refused"}},
			{v: verdict("e1", violation1), state: NotTrusted, want: []string{"policy violation of web in default"}},
		},
		"unreachable from the first": {
			{err: gone, state: Unreachable, want: []string{"agent stopped, or cannot be reached: dial tcp: connection refused"}},
			{v: good, state: Trusted, want: []string{"trusted again"}},
		},
		"own trust policy is broken": {
			{err: errors.New("trust.yaml:3: unknown key"), ours: true, state: Unknown, want: []string{"cannot be judged by this host: trust.yaml:3: unknown key"}},
			{v: good, state: Trusted, want: []string{"trusted"}},
		},
		"foreign extend, a word that policy does not accept, a reboot": {
			{v: good, state: Trusted, want: []string{"trusted"}},
			{v: verdict("e1", foreign), state: NotTrusted, want: []string{"foreign extend: the log says of itself that it is foreign"}},
			{v: verdict("e1", foreign, "configuration log-foreign-extend - what stands before does not follow"), state: NotTrusted},
			{v: next, state: Trusted, want: []string{"over: foreign extend: the log says of itself that it is foreign", "trusted again"}},
		},
		"foreign extend, a word that policy accepts": {
			{v: good, state: Trusted, want: []string{"trusted"}},
			{v: verdict("e1", foreign), state: NotTrusted, want: []string{"foreign extend: the log says of itself that it is foreign"}},
			{v: verdict("e1", word), state: Trusted, want: []string{"trusted again"}},
		},
		"a lie that is taken back": {
			{v: good, state: Trusted, want: []string{"trusted"}},
			{v: verdict("e1", rolledBack), state: NotTrusted, want: []string{"the log proves record 5; it proved record 9 before"}},
			{v: good, state: NotTrusted, want: []string{
				"what it proves now is good, and does not explain what it was caught at: the log proves record 5; it proved record 9 before",
				"over: the log proves record 5; it proved record 9 before"}},
			{v: good, state: NotTrusted},
			{err: gone, state: Unreachable, want: []string{"agent stopped, or cannot be reached: dial tcp: connection refused"}},
			{v: good, state: NotTrusted, want: []string{"what it proves now is good, and does not explain what it was caught at: the log proves record 5; it proved record 9 before"}},
			{v: next, state: Trusted, want: []string{"trusted again"}},
			{v: next, state: Trusted},
		},
		"a lie, and an operator's word": {
			{v: verdict("", rolledBack), state: NotTrusted, want: []string{"the log proves record 5; it proved record 9 before"}},
			{v: verdict("e1", word), state: Trusted, want: []string{"foreign extend: the log is foreign; an operator's word covers it (accepted by policy)", "over: the log proves record 5; it proved record 9 before", "trusted again"}},
		},
		"an extend that the log tells of only later, in a state that policy accepts": {
			{v: good, state: Trusted, want: []string{"trusted"}},
			{v: verdict("e1", "all replay - the log does not lead to the PCR"), state: NotTrusted, want: []string{"the log does not lead to the PCR"}},
			{v: verdict("e1", "+configuration log-foreign - it is foreign"), state: Trusted, want: []string{"over: the log does not lead to the PCR", "trusted again"}},
		},
		"a lie in an epoch nobody knows": {
			{v: verdict("", rolledBack), state: NotTrusted, want: []string{"the log proves record 5; it proved record 9 before"}},
			{v: good, state: NotTrusted, want: []string{
				"what it proves now is good, and does not explain what it was caught at: the log proves record 5; it proved record 9 before",
				"over: the log proves record 5; it proved record 9 before"}},
			{v: next, state: Trusted, want: []string{"trusted again"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine("b")
			at := time.Unix(1000, 0)
			since := at
			var before State = Unknown
			for i, l := range looks {
				changes := m.observe(Observation{At: at, Verdict: l.v, Err: l.err, Ours: l.ours})
				var got []string
				for _, c := range changes {
					got = append(got, c.Text)
					if c.Peer != "b" || !c.At.Equal(at) || c.From != before || c.To != l.state || c.Code == "" {
						t.Errorf("look %d: %+v", i, c)
					}
				}
				if !slices.Equal(got, l.want) || m.status.State != l.state {
					t.Errorf("look %d: %s, %q\nwanted %s, %q", i, m.status.State, got, l.state, l.want)
				}
				if l.state != before {
					before, since = l.state, at
				}
				if !m.status.Since.Equal(since) {
					t.Errorf("look %d: since %s, wanted %s", i, m.status.Since, since)
				}
				at = at.Add(time.Second)
			}
		})
	}
}

// Without stickiness the lie above is forgotten with the next verdict.
func TestStickinessMatters(t *testing.T) {
	kept := sticky
	defer func() { sticky = kept }()
	sticky = nil
	m := newMachine("b")
	for i, v := range []*verify.Verdict{verdict("e1"), verdict("e1", rolledBack), verdict("e1")} {
		m.observe(Observation{At: time.Unix(int64(i), 0), Verdict: v})
	}
	if m.status.State != Trusted {
		t.Error("the naive machine holds the lie against the peer; then what is stickiness for?")
	}
}

// In any series: a state is trusted only on a good verdict, a change of state
// has a word, and a look that changes nothing says nothing.
func FuzzSeries(f *testing.F) {
	f.Add([]byte{0, 1, 0, 5, 0, 7, 3, 3})
	f.Fuzz(func(t *testing.T, series []byte) {
		choices := []*verify.Verdict{verdict("e1"), verdict("e1", violation1), verdict("e1", foreign), verdict("e1", word),
			verdict("e1", rolledBack), verdict("e2"), verdict("e2", rolledBack), nil}
		m := newMachine("b")
		for i, x := range series {
			v := choices[int(x)%len(choices)]
			o := Observation{At: time.Unix(int64(i), 0), Verdict: v}
			if v == nil {
				o.Err = &channel.Error{Peer: "b", Phase: channel.PhaseTLS, Reason: "gone"}
			}
			before := m.status.State
			changes := m.observe(o)
			switch after := m.status.State; {
			case after == Trusted && (v == nil || v.Result != verify.Trusted || m.caught != nil):
				t.Fatalf("%v: trusted on %v", series[:i+1], v)
			case after != before && len(changes) == 0:
				t.Fatalf("%v: %s to %s without a word", series[:i+1], before, after)
			}
			if again := m.observe(o); len(again) != 0 {
				t.Fatalf("%v: the same look again says %s", series[:i+1], fmt.Sprint(again))
			}
		}
	})
}
