package eventlog

import (
	"fmt"
	"strings"

	"github.com/sealift/sealift/measure/tpm"
)

// Name is the state of the log. An epoch's own state (all but Unavailable)
// never gets better: a new epoch begins with the next boot.
type Name string

const (
	// Trusted: from the PCR's initial value on, the log explains the PCR.
	Trusted Name = "trusted"
	// Recovered: as Trusted, but at least one written batch was found not to be
	// in the TPM; it was cut out and stands in the log as a hash that claims nothing.
	Recovered Name = "recovered"
	// Foreign: somebody else extended the PCR during the epoch. What was logged
	// before that can no longer be proven by the PCR.
	Foreign Name = "foreign"
	// HistoryLost: the epoch began over a PCR that no log explains.
	HistoryLost Name = "history-lost"
	// TPMReset: the TPM was reset while this boot went on.
	TPMReset Name = "tpm-reset"
	// Unavailable: nothing can be recorded at the moment.
	Unavailable Name = "unavailable"
)

// Cause says which finding led to a state. Each tampering and each accident
// that can be told apart has its own.
type Cause string

const (
	CauseNone Cause = ""
	// TailUnextended: written, not extended, cut out (Recovered).
	TailUnextended Cause = "tail-unextended"
	// ForeignExtend: the PCR moved by other hands (Foreign).
	ForeignExtend Cause = "foreign-extend"

	// PCRNotInitial: no log of this boot, and the PCR is not at its initial value.
	PCRNotInitial Cause = "pcr-not-initial"
	// LogDeleted: the head file knows an epoch of this boot whose log is gone.
	LogDeleted Cause = "log-deleted"
	// LogRolledBack: the head file knows later records than the log holds.
	LogRolledBack Cause = "log-rolled-back"
	// PCRAhead: the log is whole and the PCR is at no value of it: log and head
	// file rolled back together, or a foreign extend while nobody watched.
	PCRAhead Cause = "pcr-ahead"
	// TailForged: the PCR is at a value of the log, and what follows in the log
	// cannot be one batch this program left behind.
	TailForged Cause = "tail-forged"
	// LogAltered: a line before the PCR's place in the log is not what it was.
	LogAltered Cause = "log-altered"

	// TPMRestarted: the TPM's resetCount moved within one boot (TPMReset;
	// HistoryLost when the PCR is not at its initial value any more).
	TPMRestarted Cause = "tpm-restarted"
	// PCRWasReset: resetCount stands, the PCR is initial, the log is not (TPMReset).
	PCRWasReset Cause = "pcr-was-reset"

	// CauseTPM, CauseSpace, CauseWrite, CauseBudget are the causes of Unavailable.
	CauseTPM    Cause = "tpm"
	CauseSpace  Cause = "space"
	CauseWrite  Cause = "write"
	CauseBudget Cause = "budget"
	// CauseClosed: the log was closed.
	CauseClosed Cause = "closed"
)

// State is what the log can say of itself at one moment.
type State struct {
	Name  Name
	Cause Cause
	// Reason is a sentence for a person.
	Reason string
	// Acknowledged is set once an operator's word on this state is in the log.
	Acknowledged bool
	// Class is the TPM's.
	Class tpm.Class

	Epoch Hash
	// Seq is the last sequence number in the TPM, Batches how many extends.
	Seq, Batches uint64
	// SyncedSeq is the last sequence number known to be on the disk.
	SyncedSeq uint64
	// Head is the PCR's value after the last batch.
	Head      tpm.Values
	Directory string
}

// AllowsStarts says whether a container may be started under enforce. After a
// reset of a software TPM the new epoch explains all of the PCR again, and its
// evidence is capped anyway; a hardware TPM that resets within a boot is under
// attack until somebody says otherwise.
func (s State) AllowsStarts() bool {
	switch s.Name {
	case Trusted, Recovered:
		return true
	case TPMReset:
		return s.Acknowledged || s.Class == tpm.Software
	case Foreign, HistoryLost:
		return s.Acknowledged
	}
	return false
}

// Hint says what a person can do about the state; empty when it is good.
func (s State) Hint() string {
	switch s.Name {
	case Foreign, HistoryLost, TPMReset:
		if s.Acknowledged {
			return ""
		}
		return "find out what happened, then reboot, or have your decision recorded: sealift log acknowledge " + string(s.Name) + " --reason TEXT"
	case Unavailable:
		switch s.Cause {
		case CauseTPM:
			return "see that the TPM answers: sealift doctor; systemctl status sealift-swtpm for a software TPM"
		case CauseSpace, CauseWrite:
			return fmt.Sprintf("make space on the file system of %s; starts go on by themselves then", s.Directory)
		case CauseBudget:
			return "the log of this boot is full: raise the log's size in the configuration, or reboot"
		}
	}
	return ""
}

// StateError refuses an event that would let something start while the log's
// state does not allow starts.
type StateError struct{ State State }

func (e *StateError) Error() string {
	return withHint(fmt.Sprintf("event log is %s (%s): %s", e.State.Name, e.State.Cause, e.State.Reason), e.State.Hint())
}

// UnavailableError says that the event was not recorded. Whether the batch it
// was in reached the TPM may be unknown; the log finds out by itself.
type UnavailableError struct {
	State State
	Err   error
}

func (e *UnavailableError) Error() string {
	text := "event log: not recorded: " + e.State.Reason
	if e.State.Reason == "" && e.Err != nil {
		text = "event log: not recorded: " + e.Err.Error()
	}
	return withHint(text, e.State.Hint())
}

func (e *UnavailableError) Unwrap() error { return e.Err }

func withHint(text, hint string) string {
	if hint == "" {
		return text
	}
	return text + "\nhint: " + hint
}

// firstLine is an error's text without its hints.
func firstLine(err error) string {
	if err == nil {
		return ""
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
