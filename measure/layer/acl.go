package layer

import (
	"encoding/binary"
	"fmt"
)

// POSIX ACLs need simulating because three later steps change what is on disk:
// creation below a directory with a default ACL copies it, chmod rewrites the
// entries of owner, mask and others, and an ACL that says no more than the mode
// is not stored (linux: fs/posix_acl.c).

// acl is a POSIX ACL, entries in canonical order.
type acl []aclEntry

type aclEntry struct {
	tag  uint16
	perm uint16
	id   uint32
}

// Tags and constants of linux/posix_acl_xattr.h.
const (
	aclVersion   = 2
	aclUserObj   = 0x01
	aclUser      = 0x02
	aclGroupObj  = 0x04
	aclGroup     = 0x08
	aclMask      = 0x10
	aclOther     = 0x20
	aclUndefined = ^uint32(0)
)

// parseACL reads the attribute's value as the kernel does. A header without
// entries is no ACL: nil, nil.
func parseACL(v string) (acl, error) {
	b := []byte(v)
	le := binary.LittleEndian
	if len(b) < 4 || le.Uint32(b) != aclVersion || (len(b)-4)%8 != 0 {
		return nil, fmt.Errorf("ACL of %d bytes is malformed", len(b))
	}
	var out acl
	for b = b[4:]; len(b) > 0; b = b[8:] {
		e := aclEntry{tag: le.Uint16(b), perm: le.Uint16(b[2:]), id: le.Uint32(b[4:])}
		if e.tag != aclUser && e.tag != aclGroup {
			e.id = aclUndefined
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, out.valid()
}

// valid applies posix_acl_valid: owner, named users, group, named groups, mask,
// others, in this order; a mask is needed when anything is named.
func (a acl) valid() error {
	state, needMask := uint16(aclUserObj), false
	for _, e := range a {
		if e.perm&^7 != 0 {
			return fmt.Errorf("ACL permissions %#o", e.perm)
		}
		ok := false
		switch e.tag {
		case aclUserObj:
			if ok = state == aclUserObj; ok {
				state = aclUser
			}
		case aclUser:
			ok = state == aclUser && e.id != aclUndefined
			needMask = true
		case aclGroupObj:
			if ok = state == aclUser; ok {
				state = aclGroup
			}
		case aclGroup:
			ok = state == aclGroup && e.id != aclUndefined
			needMask = true
		case aclMask:
			if ok = state == aclGroup; ok {
				state = aclOther
			}
		case aclOther:
			if ok = state == aclOther || (state == aclGroup && !needMask); ok {
				state = 0
			}
		}
		if !ok {
			return fmt.Errorf("ACL entry with tag %#x is out of place", e.tag)
		}
	}
	if state != 0 {
		return fmt.Errorf("ACL is not complete")
	}
	return nil
}

func (a acl) encode() string {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, aclVersion)
	for _, e := range a {
		b = le.AppendUint16(b, e.tag)
		b = le.AppendUint16(b, e.perm)
		b = le.AppendUint32(b, e.id)
	}
	return string(b)
}

// extended reports whether a says more than a mode can.
func (a acl) extended() bool {
	for _, e := range a {
		if e.tag == aclUser || e.tag == aclGroup || e.tag == aclMask {
			return true
		}
	}
	return false
}

// chmod rewrites a as chmod(2) with mode does.
func (a acl) chmod(mode uint16) acl {
	out := append(acl(nil), a...)
	group := -1
	for i := range out {
		switch e := &out[i]; e.tag {
		case aclUserObj:
			e.perm = mode >> 6 & 7
		case aclOther:
			e.perm = mode & 7
		case aclGroupObj:
			if group < 0 {
				group = i
			}
		case aclMask:
			group = i
		}
	}
	if group >= 0 {
		out[group].perm = mode >> 3 & 7
	}
	return out
}
