package verify

import (
	"bytes"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"

	"github.com/sealift/sealift/attest/bootlog"
	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
)

// The quote is one digest over many PCRs. The boot log gives most of them; IMA's
// log and the event log may have grown between the quote and when they were
// read, so the places they stood at are searched for, the newest first.
const (
	// maxLag is how many batches, and how many IMA entries, may have been added
	// since the quote.
	maxLag = 4096
	// maxTries bounds the combinations that are tried (about a second).
	maxTries = 1 << 19
)

// place is where in the logs the quote stands.
type place struct {
	// step is the batch it stands after, nil for where the window begins; at
	// counts the window's batches up to there.
	step *eventlog.Step
	at   int
	ima  int // entries of the IMA log that the quote covers
	// padded says that a bank's IMA values were SHA-1 with zeroes behind.
	padded bool
}

// required are the PCRs a quote must select besides the log's: firmware, boot
// loader, kernel, MOK; and IMA's, but in a tenant's view: IMA's log names every
// tenant's programs, so that such a view holds none, and has nothing of it.
var required = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14}

// trail is what was read of the event log: facts up to the window, and the
// window itself.
type trail struct {
	replay *eventlog.Replay
	// first is the value, and the facts, the window begins over.
	start tpm.Values
	facts *facts
	steps []*eventlog.Step
	last  uint64 // the last record that any line holds
}

// replay computes what the quote's digest must be and looks for the place.
func (a *appraisal) replay() {
	t, ok := a.readLog()
	if !ok {
		return
	}
	s := t.replay.Start()
	if !a.selection(s.PCR) {
		return
	}
	boot := a.boot
	if boot == nil {
		boot = &bootlog.Log{}
	}
	pcrs := boot.Replay(a.quote.banks())
	if !a.initial(t, s, pcrs[s.PCR]) {
		return
	}
	if len(a.ima) > 0 && s.PCR == imalog.PCR {
		a.all("pcr-shared", "", "the event log is in PCR %d, which IMA extends too", s.PCR)
		return
	}
	a.found = a.search(t, pcrs, s.PCR)
	if a.found == nil {
		a.unexplained(t, pcrs, s)
		return
	}
	a.settle(t)
	a.bootFacts(pcrs)
}

// readLog replays the event log's lines.
func (a *appraisal) readLog() (*trail, bool) {
	t := &trail{replay: eventlog.NewReplay(), facts: newFacts()}
	from := a.e.Log.From
	if p := a.prior; p != nil {
		if !bytes.Equal(p.Key, a.key.name) {
			a.all("other-host", "give the state file of this host, or none", "the earlier state is of another attestation key: the host was enrolled anew, or it is another one")
			return nil, false
		}
		if p.Namespace != a.e.Log.Namespace || p.Container != a.e.Log.Container {
			a.all("view", "one state file for each view", "the earlier state is the view of %s", view(p.Namespace, p.Container))
			return nil, false
		}
	}
	if from > 1 {
		if a.prior == nil || from != a.prior.Mark.Seq+1 {
			a.all("log-beginning-missing", "ask for the whole log, or give the state (--state) of the verdict it goes on from", "the log begins at record %d", from)
			return nil, false
		}
		var err error
		if t.replay, err = eventlog.ResumeReplay(a.prior.Mark); err != nil {
			a.all("state-malformed", "remove the state file; a whole log is needed then", "%v", err)
			return nil, false
		}
		if t.start, err = a.prior.Mark.Value(); err != nil {
			a.all("state-malformed", "remove the state file; a whole log is needed then", "%v", err)
			return nil, false
		}
		t.facts = a.prior.Facts.clone()
		t.last = a.prior.Mark.Seq
	}
	for i, d := range decodedLines(a.e.Log.Lines) {
		if d.err != nil {
			a.all("log-altered", "", "the event log: %v", &eventlog.LineError{Line: i + 1, Err: d.err})
			return nil, false
		}
		st, err := t.replay.FeedLine(d.line, d.size)
		if err != nil {
			a.all("log-altered", "", "the event log: %v", err)
			return nil, false
		}
		if t.start == nil {
			if s := t.replay.Start(); s != nil {
				t.start = s.Initial
			}
		}
		if st == nil {
			continue
		}
		if !a.forked(t.replay.Start().Epoch, st, i) {
			return nil, false
		}
		if a.e.Log.Namespace == "" && slices.ContainsFunc(st.Entries, func(e eventlog.Entry) bool { return e.Record == nil }) {
			a.all("closed", "ask for a tenant's view by name", "records are closed in what should be the whole node's view (line %d)", i+1)
			return nil, false
		}
		t.last = st.Last
		if t.steps = append(t.steps, st); len(t.steps) > maxLag {
			t.facts.add(t.steps[0])
			t.start, t.steps[0] = t.steps[0].After, nil
			t.steps = t.steps[1:]
		}
	}
	if t.replay.Start() == nil {
		a.all("log-empty", "", "no event log is there: nothing says what the PCR holds")
		return nil, false
	}
	a.v.Epoch = t.replay.Start().Epoch.String()
	return t, true
}

// decodedLine is a line, or why it is none.
type decodedLine struct {
	line *eventlog.Line
	size int
	err  error
}

// decodedLines decodes lines on all cores, so many at a time that memory stays
// bounded, and gives them in their order.
func decodedLines(lines [][]byte) iter.Seq2[int, decodedLine] {
	const window = 4096
	return func(yield func(int, decodedLine) bool) {
		workers := runtime.GOMAXPROCS(0)
		for at := 0; at < len(lines); at += window {
			part := lines[at:min(at+window, len(lines))]
			out := make([]decodedLine, len(part))
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					for i := w; i < len(part); i += workers {
						l, err := eventlog.DecodeLine(part[i])
						out[i] = decodedLine{l, len(part[i]), err}
					}
				})
			}
			wg.Wait()
			for i, d := range out {
				if !yield(at+i, d) {
					return
				}
			}
		}
	}
}

// forked compares a whole log with the place that was proven before: the same
// epoch must go through it.
func (a *appraisal) forked(epoch eventlog.Hash, st *eventlog.Step, line int) bool {
	p := a.prior
	if p == nil || a.e.Log.From != 1 || st.Last < p.Mark.Seq || st.First > p.Mark.Seq {
		return true
	}
	v, err := p.Mark.Value()
	if err != nil || p.Mark.Epoch != epoch {
		return true // past says what it means that the epoch is another one
	}
	if st.Last != p.Mark.Seq || !st.After.Equal(v) {
		a.all("log-forked", "the log was rewritten after it had been proven to you: treat the host as compromised", "record %d, proven before, is no longer what it was (line %d)", p.Mark.Seq, line+1)
		return false
	}
	return true
}

// selection checks what was quoted: the PCRs that matter, in the bank that the
// policy names, and no bank without them.
func (a *appraisal) selection(logPCR int) bool {
	want := append([]int{logPCR}, required...)
	if a.e.Log.Namespace == "" {
		want = append(want, imalog.PCR)
	}
	named := false
	for _, b := range a.quote.banks() {
		if !b.Known() {
			a.all("bank-unknown", "", "the quote selects bank %s, which cannot be replayed", b)
			return false
		}
		if b.String() == a.p.Bank {
			named = true
		}
		for _, pcr := range want {
			if !a.quote.selects(b, pcr) {
				a.all("selection", "", "the quote leaves out PCR %d of bank %s", pcr, b)
				return false
			}
		}
	}
	if len(a.ima) > 0 && !slices.Contains(want, imalog.PCR) {
		a.all("ima-log", "", "there is an IMA log, and in a tenant's view nothing proves it")
		return false
	}
	if !named {
		a.all("bank", "allocate that bank in the firmware's settings, or name another under bank: in trust.yaml", "the quote does not select bank %s", a.p.Bank)
		return false
	}
	return true
}

// initial checks what the log says that its PCR began with: what the boot log
// left there, in each bank.
func (a *appraisal) initial(t *trail, s *eventlog.Start, boot tpm.Values) bool {
	for _, b := range a.quote.banks() {
		v, ok := s.Initial[b]
		if !ok {
			a.all("bank-unextended", "", "the event log does not speak of bank %s, which is allocated: anybody could extend it unseen", b)
			return false
		}
		// An epoch that says itself that history was lost is judged by its state.
		if !bytes.Equal(v, boot[b]) && (s.State == eventlog.Trusted || s.State == eventlog.Recovered) {
			a.all("epoch-laundered", "the log's beginning was thrown away: reboot the host and look for who did it", "the epoch claims to be %s, and began over %x in bank %s; the boot explains %x", s.State, v[:8], b, boot[b][:8])
			return false
		}
	}
	return true
}

// search tries places, those nearest to the logs' ends first.
func (a *appraisal) search(t *trail, pcrs map[int]tpm.Values, logPCR int) *place {
	tries := 0
	banks := a.quote.banks()
	for _, padded := range []bool{false, true} {
		tails := map[tpm.Bank][][]byte{}
		for _, b := range banks {
			tails[b] = imalog.Tail(a.ima, b, padded, maxLag)
		}
		n := len(tails[banks[0]])
		for lag := 0; lag <= len(t.steps)+n-1; lag++ {
			for i := max(0, lag-n+1); i <= min(lag, len(t.steps)); i++ {
				if tries++; tries > maxTries {
					return nil
				}
				at, ima := len(t.steps)-i, n-1-(lag-i)
				log := t.start
				if at > 0 {
					log = t.steps[at-1].After
				}
				if a.quote.is(func(b tpm.Bank, pcr int) []byte {
					switch pcr {
					case logPCR:
						return log[b]
					case imalog.PCR:
						return tails[b][ima]
					}
					return fixed(pcrs, b, pcr)
				}) {
					p := &place{ima: len(a.ima) - (n - 1 - ima), padded: padded && len(a.ima) > 0}
					if at > 0 {
						p.step = t.steps[at-1]
						p.at = at
					}
					return p
				}
			}
		}
		if len(a.ima) == 0 {
			break
		}
	}
	return nil
}

// fixed is a PCR that no running system of ours extends. PCRs 17 to 22 are all
// ones until a late launch; whoever quotes them with one gets no for an answer.
func fixed(pcrs map[int]tpm.Values, b tpm.Bank, pcr int) []byte {
	if v, ok := pcrs[pcr]; ok {
		return v[b]
	}
	return bytes.Repeat([]byte{0xff}, b.Size())
}

// unexplained says why no place was found, as well as one digest can tell.
func (a *appraisal) unexplained(t *trail, pcrs map[int]tpm.Values, s *eventlog.Start) {
	tails := map[tpm.Bank][][]byte{}
	for _, b := range a.quote.banks() {
		tails[b] = imalog.Tail(a.ima, b, false, 0)
	}
	// Each hypothesis says what a PCR would be; when one of them gives the quoted
	// digest, that is what happened.
	try := func(log func(tpm.Bank) []byte, ima, boot bool) bool {
		return a.quote.is(func(b tpm.Bank, pcr int) []byte {
			switch {
			case pcr == s.PCR:
				return log(b)
			case pcr == imalog.PCR && ima:
				return tails[b][len(tails[b])-1]
			case pcr == imalog.PCR || boot:
				return make([]byte, b.Size())
			}
			return fixed(pcrs, b, pcr)
		})
	}
	zero := func(b tpm.Bank) []byte { return make([]byte, b.Size()) }
	end := func(b tpm.Bank) []byte {
		if len(t.steps) > 0 {
			return t.steps[len(t.steps)-1].After[b]
		}
		return t.start[b]
	}
	banks := a.quote.banks()
	switch {
	case a.quote.reset != s.ResetCount:
		a.all("tpm-reset", "", "the TPM was reset since this log began: it counts %d resets, the log %d; the log is not what the PCRs hold", a.quote.reset, s.ResetCount)
	case try(zero, true, false) || try(zero, true, true):
		a.all("pcr-reset", "", "the log's PCR stands at zero: the TPM was reset, or it is another TPM's log")
	case len(a.ima) > 0 && try(end, false, false):
		a.all("ima-log", "", "the IMA log holds entries and PCR %d stands at zero", imalog.PCR)
	case len(a.e.Boot) > 0 && try(end, true, true):
		a.all("boot-log", "", "the boot log holds events and the boot PCRs stand at zero")
	default:
		for _, left := range banks {
			if try(func(b tpm.Bank) []byte {
				if b == left {
					return zero(b)
				}
				return end(b)
			}, true, false) {
				a.all("bank-unextended", "", "bank %s of the log's PCR was never extended: anybody could forge a log in it", left)
				return
			}
		}
		a.all("replay", "", "%s", a.unexplainedText())
	}
}

func (a *appraisal) unexplainedText() string {
	without := ""
	switch {
	case len(a.e.Boot) == 0 && len(a.e.IMA) == 0:
		without = "; there is neither a boot log nor an IMA log beside it"
	case len(a.e.Boot) == 0:
		without = "; there is no boot log beside it"
	case len(a.e.IMA) == 0:
		without = "; there is no IMA log beside it"
	}
	return fmt.Sprintf("the logs do not lead to what the TPM signed: one of them was rolled back, cut, forged or replaced, or a PCR was extended by somebody else%s", without)
}

// settle takes in the facts up to the place that was found.
func (a *appraisal) settle(t *trail) {
	a.trail = t
	for _, st := range t.steps[:a.found.at] {
		t.facts.add(st)
	}
	a.v.Proven = t.facts.Seq
	a.v.Unproven = t.last - t.facts.Seq
}
