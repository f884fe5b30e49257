package bootlog

import (
	"bytes"
	"fmt"
)

// Type is an event's type (PFP, section 10.4.1).
type Type uint32

// The types this package knows the meaning of.
const (
	PostCode                Type = 0x00000001
	NoAction                Type = 0x00000003
	Separator               Type = 0x00000004
	Action                  Type = 0x00000005
	EventTag                Type = 0x00000006
	SCRTMContents           Type = 0x00000007
	SCRTMVersion            Type = 0x00000008
	IPL                     Type = 0x0000000D
	EFIVariableDriverConfig Type = 0x80000001
	EFIVariableBoot         Type = 0x80000002
	EFIBootApplication      Type = 0x80000003
	EFIGPT                  Type = 0x80000006
	EFIAction               Type = 0x80000007
	EFIVariableBoot2        Type = 0x8000000C
	EFIVariableAuthority    Type = 0x800000E0
)

var typeNames = map[Type]string{
	PostCode: "EV_POST_CODE", NoAction: "EV_NO_ACTION", Separator: "EV_SEPARATOR", Action: "EV_ACTION", EventTag: "EV_EVENT_TAG",
	SCRTMContents: "EV_S_CRTM_CONTENTS", SCRTMVersion: "EV_S_CRTM_VERSION", IPL: "EV_IPL",
	EFIVariableDriverConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG", EFIVariableBoot: "EV_EFI_VARIABLE_BOOT",
	EFIBootApplication: "EV_EFI_BOOT_SERVICES_APPLICATION", EFIGPT: "EV_EFI_GPT_EVENT", EFIAction: "EV_EFI_ACTION",
	EFIVariableBoot2: "EV_EFI_VARIABLE_BOOT2", EFIVariableAuthority: "EV_EFI_VARIABLE_AUTHORITY",
}

func (t Type) String() string {
	if n, ok := typeNames[t]; ok {
		return n
	}
	return fmt.Sprintf("0x%08x", uint32(t))
}

// bound recomputes the digests from the data, where the profile, or the program
// that measures, defines them over something the data holds.
func (e *Event) bound() bool {
	for _, candidate := range e.measured() {
		if e.is(candidate) {
			return true
		}
	}
	return false
}

// is says whether every bank's digest is the hash of data.
func (e *Event) is(data []byte) bool {
	for b, d := range e.Digests {
		if !bytes.Equal(b.Hash(data), d) {
			return false
		}
	}
	return len(e.Digests) > 0
}

// measured lists what the digest may be the hash of. Where firmware differs in
// practice there are two; either way it is the data that is bound.
func (e *Event) measured() [][]byte {
	switch e.Type {
	case EFIVariableBoot:
		// EDK II hashes the whole structure, others the variable alone.
		if v, err := parseVariable(e.Data); err == nil {
			return [][]byte{e.Data, v.Data}
		}
	case IPL:
		// GRUB hashes the string without the word it puts before it and without
		// the zero behind it, older Red Hat ones with the zero; systemd's stub the
		// whole data.
		if _, text, ok := grubText(e.Data); ok {
			return [][]byte{text, append(bytes.Clone(text), 0)}
		}
	}
	return [][]byte{e.Data}
}

// Intact says that no event's digest is that of another data than its own,
// where its type leaves no doubt what is hashed (what stands for an authority,
// boot loaders have hashed in several ways). The first that is not is
// given: its log was edited, or its firmware does not follow the profile.
func (l *Log) Intact() (Event, bool) {
	for _, e := range l.Events {
		switch e.Type {
		case Separator, Action, EFIAction, SCRTMVersion, EFIVariableDriverConfig, EFIVariableBoot, EFIVariableBoot2, EFIGPT:
			if !e.Bound {
				return e, false
			}
		}
	}
	return Event{}, true
}
