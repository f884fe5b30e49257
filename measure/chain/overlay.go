package chain

import (
	"fmt"
	"regexp"
	"strings"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// overlayOptions are the options under which an overlay shows just its layers:
// nothing that follows a redirect, takes data from a third place or maps names
// (Documentation/filesystems/overlayfs.rst). Nor index=on, under which a file in
// the work directory can stand in for a layer's, nor userxattr, under which the
// marks that were measured mean nothing and others do.
var overlayOptions = map[string]bool{
	"ro": true, "rw": true, "nosuid": true, "nodev": true, "noexec": true,
	"noatime": true, "relatime": true, "nodiratime": true,
	"index=off": true, "metacopy=off": true, "volatile": true,
	"redirect_dir=nofollow": true, "redirect_dir=off": true,
	"xino=off": true, "xino=on": true, "xino=auto": true, "nfs_export=off": true, "uuid=off": true, "uuid=null": true, "uuid=auto": true, "uuid=on": true,
}

// labelOption is SELinux's label of the mount. The kernel takes the options as one
// text and parts it at commas, so that only quotes may hold one, and nothing in
// them may pass for an option of its own.
var labelOption = regexp.MustCompile(`^context=([A-Za-z0-9_.:-]+|"[A-Za-z0-9_.:,-]+")$`)

func parseOverlay(m *nodev1.Mount) (*Chain, error) {
	c := &Chain{Kind: Overlay}
	seen := map[string]bool{}
	var lower string
	for _, o := range m.GetOptions() {
		key, val, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir", "upperdir", "workdir":
			if seen[key] {
				return nil, &Problem{Code: "mount-option", Subject: "rootfs overlay mount", Message: key + " is given twice"}
			}
			seen[key] = true
		}
		switch key {
		case "lowerdir":
			lower = val
		case "upperdir":
			c.Upper = val
		case "workdir":
			c.Work = val
		default:
			if !overlayOptions[o] && !labelOption.MatchString(o) && !c.idMap(o) {
				return nil, badOption("overlay", o)
			}
			if o == "ro" || o == "rw" {
				c.ReadOnly = o == "ro" // the last one holds
			}
			c.Options = append(c.Options, o)
		}
	}
	if err := c.checkIDMap("overlay"); err != nil {
		return nil, err
	}
	if err := c.setLowers(lower); err != nil {
		return nil, err
	}
	if (c.Upper == "") != (c.Work == "") {
		return nil, &Problem{Code: "mount-option", Subject: "rootfs overlay mount", Message: "upperdir and workdir go together"}
	}
	if c.Upper == "" {
		c.ReadOnly = true
		return c, nil
	}
	if err := checkOverlayDir(c.Upper); err != nil {
		return nil, err
	}
	return c, checkOverlayDir(c.Work)
}

// checkOverlayDir refuses a directory whose name the kernel does not read as one:
// it parts all options at commas, and a backslash takes a comma's meaning away.
// "/u,lowerdir=/evil" is one directory to whoever looks at it and two options to
// the mount.
func checkOverlayDir(dir string) error {
	if strings.ContainsAny(dir, `,\`) {
		return &Problem{Code: "mount-option", Subject: "rootfs overlay mount",
			Message: fmt.Sprintf("directory %q has a comma or a backslash, at which the kernel parts mount options", dir),
			Hint:    "move the snapshotter's root to a path without them"}
	}
	return checkDir(dir)
}

// setLowers splits lowerdir, which the kernel reads top first.
func (c *Chain) setLowers(lower string) error {
	if lower == "" {
		return &Problem{Code: "mount-option", Subject: "rootfs overlay mount", Message: "no lowerdir"}
	}
	// A backslash escapes a colon, and "::" begins data-only layers.
	if strings.Contains(lower, `\`) || strings.Contains(lower, "::") {
		return &Problem{Code: "mount-option", Subject: "rootfs overlay mount",
			Message: "lowerdir has escapes or data-only layers, which are not accepted"}
	}
	dirs := strings.Split(lower, ":")
	if len(dirs) > maxLowers {
		return &Problem{Code: "mount-option", Subject: "rootfs overlay mount", Message: fmt.Sprintf("%d lower directories, at most %d are read", len(dirs), maxLowers)}
	}
	seen := map[string]bool{}
	for i := len(dirs) - 1; i >= 0; i-- {
		d := dirs[i]
		if err := checkOverlayDir(d); err != nil {
			return err
		}
		if seen[d] {
			return &Problem{Code: "layer-order", Subject: "rootfs overlay mount", Message: fmt.Sprintf("lower directory %s is named twice", d)}
		}
		seen[d] = true
		c.Lowers = append(c.Lowers, Lower{Dir: d})
	}
	return nil
}
