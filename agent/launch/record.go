// Package launch examines a would-be container: what its root is made of, what
// its image says it should be made of, what its spec brings along. The findings
// go to the gate, and the record of them to the event log.
package launch

import (
	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// Record is the body of the log's "launch" and "refusal" events. Its fields are
// documented in docs/records.md.
type Record struct {
	Image *ImageRecord `json:"image,omitempty"`
	Root  RootRecord   `json:"root"`
	Binds []Bind       `json:"binds,omitempty"`
	Hooks []Hook       `json:"hooks,omitempty"`
	// Runtime is the OCI runtime binary by path; its digest is in the record of
	// the agent's start.
	Runtime    string       `json:"runtime,omitempty"`
	Checkpoint bool         `json:"checkpoint,omitempty"`
	Policy     PolicyRecord `json:"policy"`
	// Reasons are why it was refused; WouldRefuse why it would have been under
	// enforce.
	Reasons     []ReasonRecord `json:"reasons,omitempty"`
	WouldRefuse []ReasonRecord `json:"would_refuse,omitempty"`
	// MoreReasons counts those that were left out for room.
	MoreReasons int `json:"more_reasons,omitempty"`
}

type ImageRecord struct {
	Name     string `json:"name"`
	Manifest string `json:"manifest"`
	Config   string `json:"config"`
}

// RootRecord is the mounted chain.
type RootRecord struct {
	Kind     string        `json:"kind"`
	ReadOnly bool          `json:"read_only,omitempty"`
	Options  []string      `json:"options,omitempty"`
	Layers   []LayerRecord `json:"layers,omitempty"`
	Remap    *RemapRecord  `json:"remap,omitempty"`
	// Upper is "none", "empty", "restart", "restored" or "unexpected".
	Upper       string `json:"upper"`
	UpperDigest string `json:"upper_digest,omitempty"`
	// UpperCheckpoint is the index of the checkpoint whose writable layer it is.
	UpperCheckpoint string `json:"upper_checkpoint,omitempty"`
	// Class is the weakest binding class of the layers; "unmeasured" under
	// content: off.
	Class string `json:"class,omitempty"`
}

type LayerRecord struct {
	DiffID string `json:"diff_id,omitempty"`
	Wanted string `json:"wanted,omitempty"`
	Found  string `json:"found"`
	Class  string `json:"class"`
	Why    string `json:"why,omitempty"`
}

type PolicyRecord struct {
	Digest  string   `json:"digest"`
	Sources []string `json:"sources,omitempty"`
	Content string   `json:"content"`
	Level   string   `json:"level"`
}

type ReasonRecord struct {
	Code    string `json:"code"`
	Subject string `json:"subject,omitempty"`
	Layer   string `json:"layer,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	Wanted  string `json:"wanted,omitempty"`
	Found   string `json:"found,omitempty"`
}

// maxRecorded bounds how many reasons one record holds.
const maxRecorded = 16

// SetVerdict puts the gate's answer into the record.
func (r *Record) SetVerdict(reasons, wouldRefuse []*nodev1.Reason) {
	var more int
	r.Reasons, more = reasonRecords(reasons)
	r.MoreReasons += more
	r.WouldRefuse, more = reasonRecords(wouldRefuse)
	r.MoreReasons += more
}

func reasonRecords(in []*nodev1.Reason) (out []ReasonRecord, more int) {
	for i, r := range in {
		if i == maxRecorded {
			return out, len(in) - maxRecorded
		}
		out = append(out, reasonRecord(r))
	}
	return out, 0
}
