package eventlog

import "strings"

// Types of records that only the log itself writes; an Event of such a type is
// refused, so that nobody can have the log testify about itself.
const (
	typeEpoch        = "log-epoch"
	typeRecovered    = "log-recovered"
	typeForeign      = "log-foreign"
	typeUnanswered   = "log-unanswered"
	typeAcknowledged = "log-acknowledged"
	typeUnproven     = "log-unproven"
	typeCoalesced    = "log-coalesced"
	typeUnavailable  = "log-unavailable"
	ownPrefix        = "log-"
)

func ownType(s string) bool { return strings.HasPrefix(s, ownPrefix) }

// FormatVersion is the version of all that docs/event-log.md describes.
const FormatVersion = 1

// epochBody is the first record of an epoch.
type epochBody struct {
	Version    uint32 `json:"version"`
	Instance   string `json:"instance"`
	BootID     string `json:"bootId"`
	ResetCount uint32 `json:"resetCount"`
	Number     uint64 `json:"number"`
	Nonce      Hash   `json:"nonce"`
	PCR        uint32 `json:"pcr"`
	Initial    banks  `json:"initial"`
	// Previous is the old head, of whichever epoch came before.
	Previous *headBody `json:"previous"`
	State    Name      `json:"state"`
	Cause    Cause     `json:"cause"`
	Reason   string    `json:"reason"`

	Device       string `json:"device"`
	Class        string `json:"class"`
	Manufacturer string `json:"manufacturer"`
	Vendor       string `json:"vendor"`
	Firmware     string `json:"firmware"`
	RestartCount uint32 `json:"restartCount"`
	ClockMillis  uint64 `json:"clockMillis"`
	Safe         bool   `json:"safe"`
}

func (b *epochBody) id() Hash {
	return epochID(b.Instance, b.BootID, b.ResetCount, b.Number, b.Nonce)
}

// headBody names a place in an epoch; it is also the head file's content.
type headBody struct {
	Epoch      Hash   `json:"epoch"`
	Number     uint64 `json:"number"`
	Instance   string `json:"instance"`
	BootID     string `json:"bootId"`
	ResetCount uint32 `json:"resetCount"`
	Seq        uint64 `json:"seq"`
	Values     banks  `json:"values"`
}

// recoveredBody stands for bytes that were written and never extended. Their
// content claims nothing; File keeps them for whoever wants to look.
type recoveredBody struct {
	Epoch  Hash   `json:"epoch"`
	File   string `json:"file"`
	SHA256 Hash   `json:"sha256"`
	Bytes  uint64 `json:"bytes"`
	Lines  uint64 `json:"lines"`
}

// foreignBody opens a segment: the PCR was expected at one value and found at
// another. Nothing before it follows from the PCR any more.
type foreignBody struct {
	Expected banks `json:"expected"`
	Found    banks `json:"found"`
}

// unansweredBody names records that are in the TPM although whoever asked for
// them was told that they could not be recorded.
type unansweredBody struct {
	First uint64 `json:"first"`
	Count uint32 `json:"count"`
	Error string `json:"error"`
}

type acknowledgedBody struct {
	State Name  `json:"state"`
	Cause Cause `json:"cause"`
	// Seen is the last record when the operator looked: what came after it is
	// not covered by the word.
	Seen   uint64 `json:"seen"`
	Reason string `json:"reason"`
}

// unprovenBody lists one namespace's containers that were running when an
// epoch began that has no record of their start.
type unprovenBody struct {
	Containers []string `json:"containers"`
	// Unknown says why the list could not be had.
	Unknown string `json:"unknown,omitempty"`
}

// coalescedBody counts events that were not recorded one by one.
type coalescedBody struct {
	// Of is the record they repeat; 0 when a quota was the reason.
	Of     uint64 `json:"of"`
	Type   string `json:"type"`
	Count  uint64 `json:"count"`
	First  Time   `json:"first"`
	Last   Time   `json:"last"`
	Reason string `json:"reason"`
}

// unavailableBody tells afterwards of a time without records.
type unavailableBody struct {
	Cause   Cause  `json:"cause"`
	Reason  string `json:"reason"`
	From    Time   `json:"from"`
	Until   Time   `json:"until"`
	Refused uint64 `json:"refused"`
}
