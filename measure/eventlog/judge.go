package eventlog

import (
	"fmt"

	"github.com/sealift/sealift/measure/tpm"
)

// verdict is what Open makes of log, head file and PCR: go on (plan nil),
// perhaps after cutting a tail, or begin a new epoch.
type verdict struct {
	plan *plan
	cut  bool
}

// judge is pure: the whole decision of which state the log is in.
func (l *Log) judge(s *scan, head *headBody, found tpm.Values, props tpm.Properties) verdict {
	initial := found.Equal(l.c.Initial)
	begin := func(n Name, c Cause, format string, args ...any) verdict {
		return verdict{plan: &plan{n, c, fmt.Sprintf(format, args...), previous(s, head)}}
	}
	fresh := func() verdict {
		if initial {
			return begin(Trusted, CauseNone, "the PCR was at its initial value")
		}
		return begin(HistoryLost, PCRNotInitial, "PCR %d was already extended and no log of this boot explains it", l.c.PCR)
	}
	here := func(instance, boot string) bool { return instance == l.c.Instance && boot == l.c.BootID }

	if head != nil && here(head.Instance, head.BootID) && (s == nil || s.epoch == nil || s.epoch.Number < head.Number) {
		if head.ResetCount != props.ResetCount {
			return begin(resetName(initial), TPMRestarted, "%s, and the log is gone", resetReason(head.ResetCount, props.ResetCount))
		}
		return begin(HistoryLost, LogDeleted, "the log of epoch %s is gone; it had at least %d records", head.Epoch, head.Seq)
	}
	if s == nil || (s.epoch != nil && !here(s.epoch.Instance, s.epoch.BootID)) {
		return fresh()
	}
	if s.epoch == nil {
		return begin(HistoryLost, LogAltered, "the log's first record cannot be read: %v", s.bad)
	}
	if s.epoch.ResetCount != props.ResetCount {
		return begin(resetName(initial), TPMRestarted, "%s", resetReason(s.epoch.ResetCount, props.ResetCount))
	}
	switch {
	case s.atEnd && s.trailing == 0 && s.bad == nil:
		return verdict{}
	case s.atEnd && s.unended && s.bad == nil:
		return verdict{cut: true}
	case s.atLast && s.lastNewest && s.trailing == 0 && s.bad == nil:
		return verdict{cut: true}
	case initial && s.batches > 0:
		return begin(TPMReset, PCRWasReset, "PCR %d is back at its initial value although the TPM's resetCount stands at %d", l.c.PCR, props.ResetCount)
	case s.matched:
		return begin(HistoryLost, TailForged, "the PCR stands within the log, and what follows was not left there by a crash: %s", s.tailReason())
	case s.bad != nil:
		return begin(HistoryLost, LogAltered, "the log was changed: %v", s.bad)
	case head != nil && head.Epoch == s.id && head.Seq > s.seq:
		return begin(HistoryLost, LogRolledBack, "the log ends at record %d, and it once had %d", s.seq, head.Seq)
	}
	return begin(HistoryLost, PCRAhead, "the log ends at record %d and the PCR is ahead of it: log and state were rolled back, or somebody else extended the PCR while no agent ran", s.seq)
}

// unborn says that nothing of the epoch is in the TPM: it holds no line, or the
// beginning of its first batch, or that batch with the PCR still before it.
func (s *scan) unborn() bool {
	if s.bad != nil {
		return false
	}
	return s.batches == 0 || (s.batches == 1 && s.trailing == 0 && s.lastNewest && s.atLast)
}

func (s *scan) tailReason() string {
	if s.bad != nil {
		return s.bad.Error()
	}
	return fmt.Sprintf("it ends at record %d with %d bytes more", s.seq, s.trailing)
}

// previous is the old head: the log's end where there is one, else what the
// head file says.
func previous(s *scan, head *headBody) *headBody {
	if s == nil || s.epoch == nil || s.batches == 0 {
		return head
	}
	if head != nil && (head.Number > s.epoch.Number || (head.Epoch == s.id && head.Seq > s.seq)) {
		return head
	}
	return s.head()
}

func (r *replay) head() *headBody {
	e := r.epoch
	return &headBody{r.id, e.Number, e.Instance, e.BootID, e.ResetCount, r.seq, toBanks(r.values)}
}

func (l *Log) head() *headBody { return l.r.head() }
