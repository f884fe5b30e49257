// Package chain reads the mounts that will make up a container's root and says
// what they are made of: the ordered layers below, the writable layer above,
// and every option that could change what the container sees. It looks at the
// mounts as the kernel will get them, never at a snapshotter's own list of names.
package chain

import (
	"fmt"
	"path/filepath"
	"strings"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// Kind is how a root is put together.
type Kind string

const (
	// Overlay is layer directories stacked by overlayfs, with or without an upper.
	Overlay Kind = "overlay"
	// Bind is one directory: the native snapshotter's copy, a single-layer view,
	// or the empty root of an image without layers.
	Bind Kind = "bind"
	// Plain is a directory that containerd mounted nothing on (ctr run --rootfs).
	Plain Kind = "plain"
	// EROFS is one EROFS blob mounted read-only, without an overlay.
	EROFS Kind = "erofs"
)

// Lower is one read-only layer. Exactly one of Dir and Blob is set.
type Lower struct {
	// Dir is the layer's directory.
	Dir string
	// Blob is the file of an EROFS layer; Mountpoint is where it is mounted.
	Blob, Mountpoint string
}

// Path is the directory or blob.
func (l Lower) Path() string {
	if l.Blob != "" {
		return l.Blob
	}
	return l.Dir
}

// Chain is what a root is made of.
type Chain struct {
	Kind Kind
	// Lowers are bottom first, the order of an image's diffIDs.
	Lowers []Lower
	// Upper and Work are the writable layer's directories; empty when read-only.
	Upper, Work string
	// ReadOnly says that the mount itself cannot be written through.
	ReadOnly bool
	// UIDMap and GIDMap are the mapping under which the lowers are mounted, as the
	// options spell it (CONTAINER:HOST:SIZE, by commas); both or neither is set.
	UIDMap, GIDMap string
	// Options are all mount options but the directories, for the record.
	Options []string
}

// Problem is a mount that cannot be accepted. Its Code is one of the reason
// codes of the node API.
type Problem struct {
	Code, Subject, Message, Hint string
}

func (p *Problem) Error() string { return p.Subject + ": " + p.Message }

// Reason renders p for the node API.
func (p *Problem) Reason() *nodev1.Reason {
	return &nodev1.Reason{Code: p.Code, Subject: p.Subject, Message: p.Message, Hint: p.Hint}
}

// Bounds on what a launch may name: overlayfs itself takes at most 500 layers
// (Documentation/filesystems/overlayfs.rst).
const (
	maxMounts = 600
	maxLowers = 500
)

// Parse reads the mounts of one root, in mounting order. Its error is a
// *Problem.
func Parse(mounts []*nodev1.Mount) (*Chain, error) {
	switch {
	case len(mounts) == 0:
		return &Chain{Kind: Plain}, nil
	case len(mounts) > maxMounts:
		return nil, &Problem{Code: "mount-type", Subject: "rootfs", Message: fmt.Sprintf("%d mounts, at most %d are read", len(mounts), maxMounts)}
	}
	// containerd mounts what comes before the last itself (mount manager), and
	// what is left for a shim is one mount. Erofs layers left to the shim are the
	// exception: their mounts precede an overlay that names them by template.
	last := mounts[len(mounts)-1]
	if t := last.GetTarget(); t != "" && t != "/" {
		return nil, &Problem{Code: "mount-type", Subject: "rootfs mount on " + t, Message: "a mount beneath the root is not accepted"}
	}
	if len(mounts) > 1 {
		return nil, &Problem{Code: "mount-type", Subject: "rootfs",
			Message: fmt.Sprintf("%d mounts, expected one overlay or bind", len(mounts)),
			Hint:    "use the overlayfs, native or erofs snapshotter"}
	}
	switch last.GetType() {
	case "overlay":
		return parseOverlay(last)
	case "bind", "rbind":
		return parseBind(last)
	case "erofs":
		return parseErofs(last)
	}
	return nil, &Problem{Code: "mount-type", Subject: "rootfs",
		Message: fmt.Sprintf("mount type %q is not one that can be measured", last.GetType()),
		Hint:    "use the overlayfs, native or erofs snapshotter"}
}

func parseBind(m *nodev1.Mount) (*Chain, error) {
	c := &Chain{Kind: Bind, Options: m.GetOptions()}
	for _, o := range m.GetOptions() {
		switch {
		case o == "ro":
			c.ReadOnly = true
		case o == "rw":
			c.ReadOnly = false
		case bindOptions[o]:
		case c.idMap(o):
		default:
			return nil, badOption("bind", o)
		}
	}
	if err := c.checkIDMap("bind"); err != nil {
		return nil, err
	}
	if err := checkDir(m.GetSource()); err != nil {
		return nil, err
	}
	c.Lowers = []Lower{{Dir: m.GetSource()}}
	return c, nil
}

func parseErofs(m *nodev1.Mount) (*Chain, error) {
	if err := checkDir(m.GetSource()); err != nil {
		return nil, err
	}
	for _, o := range m.GetOptions() {
		if o != "ro" && o != "loop" {
			return nil, badOption("erofs", o)
		}
	}
	return &Chain{Kind: EROFS, ReadOnly: true, Options: m.GetOptions(), Lowers: []Lower{{Blob: m.GetSource()}}}, nil
}

var bindOptions = map[string]bool{
	"bind": true, "rbind": true, "nosuid": true, "nodev": true, "noexec": true,
	"private": true, "rprivate": true, "slave": true, "rslave": true, "noatime": true, "relatime": true,
}

// idMap takes an option that maps ids. One that is given twice is not taken.
func (c *Chain) idMap(o string) bool {
	name, val, _ := strings.Cut(o, "=")
	var m *string
	switch name {
	case "uidmap":
		m = &c.UIDMap
	case "gidmap":
		m = &c.GIDMap
	}
	if m == nil || *m != "" || val == "" {
		return false
	}
	*m = val
	return true
}

// checkIDMap refuses half a mapping, which containerd leaves out in silence.
func (c *Chain) checkIDMap(fs string) error {
	if (c.UIDMap == "") != (c.GIDMap == "") {
		return &Problem{Code: "mount-option", Subject: "rootfs " + fs + " mount", Message: "uidmap and gidmap go together"}
	}
	return nil
}

func badOption(fs, o string) *Problem {
	return &Problem{Code: "mount-option", Subject: "rootfs " + fs + " mount",
		Message: fmt.Sprintf("option %q is not on the list of options that leave the content as measured", o),
		Hint:    "remove the option from the snapshotter's configuration"}
}

// checkDir refuses a path that could mean two things.
func checkDir(p string) error {
	if !filepath.IsAbs(p) || filepath.Clean(p) != p || strings.ContainsAny(p, "\x00\n") {
		return &Problem{Code: "mount-type", Subject: fmt.Sprintf("rootfs source %q", p), Message: "not a clean absolute path"}
	}
	return nil
}
