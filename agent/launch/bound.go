package launch

import (
	"fmt"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// Bounds of one record. An event that is too large for the log is not recorded
// at all, so that who is refused for a long list must not be able to hide it in
// the list. No path that a kernel takes is longer than maxField.
const (
	maxField  = 4096
	maxRecord = 512 << 10
	// kept is how many entries stay of lists that are too long together.
	kept = 32
)

func cut(s string) string {
	if len(s) > maxField {
		return s[:maxField] + "…"
	}
	return s
}

// bound makes the record one that the log takes, and refuses what it must cut
// off lists for.
func (f *Finding) bound() {
	r := &f.Record
	size := 0
	field := func(s *string) {
		*s = cut(*s)
		size += len(*s)
	}
	field(&r.Runtime)
	for i := range r.Root.Options {
		field(&r.Root.Options[i])
	}
	if m := r.Root.Remap; m != nil {
		size += 64 * (len(m.UID) + len(m.GID))
	}
	for i := range r.Binds {
		field(&r.Binds[i].Destination)
		field(&r.Binds[i].Source)
		size += 128 // digest and type
	}
	for i := range r.Hooks {
		field(&r.Hooks[i].Path)
		size += 96
	}
	if size <= maxRecord {
		return
	}
	f.never("invalid", "config.json and mounts", fmt.Sprintf("what they bring along takes %d bytes to record, at most %d", size, maxRecord), "")
	r.Root.Options = r.Root.Options[:min(kept, len(r.Root.Options))]
	r.Binds = r.Binds[:min(kept, len(r.Binds))]
	r.Hooks = r.Hooks[:min(kept, len(r.Hooks))]
}

func reasonRecord(r *nodev1.Reason) ReasonRecord {
	return ReasonRecord{Code: r.GetCode(), Subject: cut(r.GetSubject()), Layer: cut(r.GetLayer()), Path: cut(r.GetPath()),
		Message: cut(r.GetMessage()), Wanted: cut(r.GetWanted()), Found: cut(r.GetFound())}
}
