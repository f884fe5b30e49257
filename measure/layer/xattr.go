package layer

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// XattrRule says what an extended attribute is to a layer.
type XattrRule int

// The rules; docs/layer-digest.md has the table.
const (
	XattrRefused XattrRule = iota // not in the closed list
	XattrKept                     // part of the record
	XattrIgnored                  // belongs to the machine, not to the image
)

// Names of attributes that the rules treat one by one.
const (
	XattrCapability = "security.capability"
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
)

// JudgeXattr decides about an attribute by its name. The list is closed: an
// attribute that nobody thought about might change what a container sees.
// "user.overlay." is refused although it is in the user namespace: a mount
// with the option userxattr reads marks there.
func JudgeXattr(name string) XattrRule {
	switch {
	case name == XattrCapability, name == xattrACLAccess, name == xattrACLDefault:
		return XattrKept
	case name == "security.selinux", name == "security.ima":
		return XattrIgnored
	case strings.HasPrefix(name, "user.overlay."):
		return XattrRefused
	case strings.HasPrefix(name, "user.") && len(name) > len("user."):
		return XattrKept
	}
	return XattrRefused
}

// The two revisions of file capabilities that Linux 4.14 and later accept
// (linux/capability.h, security/commoncap.c).
const (
	capRevision2 = 0x02000000
	capRevision3 = 0x03000000
	capEffective = 0x00000001 // the only flag
	capSize2     = 20
	capSize3     = 24
)

// canonicalCapability returns the value that reads back after v was set as
// security.capability by root of the initial user namespace: v itself, except
// that revision 3 with root id 0 is shown as revision 2.
func canonicalCapability(v string) (string, error) {
	if len(v) != capSize2 && len(v) != capSize3 {
		return "", fmt.Errorf("file capabilities of %d bytes", len(v))
	}
	b := []byte(v)
	le := binary.LittleEndian
	magic := le.Uint32(b)
	switch revision := magic &^ capEffective; {
	case len(v) == capSize2 && revision == capRevision2:
		return v, nil
	case len(v) == capSize3 && revision == capRevision3:
		switch le.Uint32(b[capSize2:]) {
		case ^uint32(0):
			return "", fmt.Errorf("file capabilities with root id -1")
		case 0:
			le.PutUint32(b, capRevision2|magic&capEffective)
			return string(b[:capSize2]), nil
		}
		return v, nil
	default:
		return "", fmt.Errorf("file capabilities with magic %#x in %d bytes", magic, len(v))
	}
}
