package layer

import "fmt"

// Reason classes of a MeaninglessError.
const (
	ReasonName          = "name"           // NUL, "..", or longer than the kernel allows
	ReasonType          = "type"           // an entry type that the unpacker does not know
	ReasonParent        = "parent"         // a parent is not a directory: it cannot be unpacked
	ReasonSymlinkHost   = "symlink-host"   // which file is meant depends on the host's own files
	ReasonSymlinkLoop   = "symlink-loop"   // symbolic links without end
	ReasonHardlink      = "hardlink"       // its target is not in this layer, or cannot be linked to
	ReasonWhiteout      = "whiteout"       // hides what the same layer brings, or has no name to hide
	ReasonDeviceZero    = "device-zero"    // character device 0:0 is what a whiteout looks like
	ReasonDevice        = "device"         // a device number that does not fit
	ReasonOwner         = "owner"          // a user or group id that does not fit
	ReasonXattr         = "xattr"          // an attribute outside the closed list, or one that cannot be set
	ReasonSymlinkTarget = "symlink-target" // an empty or too long target
	ReasonDirectoryGone = "directory-gone" // a named directory that does not exist in the end: unpacking fails
	ReasonTime          = "time"           // a directory whose time would be the moment of unpacking
	ReasonLowerLayer    = "lower-layer"    // what it means depends on a lower layer
	ReasonTooMany       = "too-many"       // more entries than MaxRecords
)

// MeaninglessError is a tar that cannot be a layer: unpacking it fails, or what
// it unpacks to depends on something outside it, or cannot be told apart on
// disk from something else.
type MeaninglessError struct {
	Path   string // the entry's name as the tar has it; empty for the tar as a whole
	Reason string // one of the Reason constants
	Detail string
}

// Error names the entry, the reason class and the detail.
func (e *MeaninglessError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("layer tar has no meaning (%s): %s", e.Reason, e.Detail)
	}
	return fmt.Sprintf("layer tar has no meaning: entry %.300q (%s): %s", e.Path, e.Reason, e.Detail)
}

// refusal is a MeaninglessError before it knows its entry.
func refusal(reason, format string, args ...any) *MeaninglessError {
	return &MeaninglessError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
