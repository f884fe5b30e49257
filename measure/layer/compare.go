package layer

import (
	"encoding/hex"
	"fmt"
	"time"
)

// Kinds of differences. Compare gives the first group; measure/tree adds the
// second for what no manifest can hold.
const (
	KindContent  = "content"
	KindSize     = "size"
	KindMode     = "mode"
	KindOwner    = "owner"
	KindXattr    = "xattr"
	KindLink     = "link"
	KindType     = "type"
	KindAdded    = "added"
	KindMissing  = "missing"
	KindHardlink = "hardlink"
	KindDevice   = "device"
	KindMTime    = "mtime"
	KindOpaque   = "opaque"
	KindWhiteout = "whiteout"

	KindRedirect     = "redirect"      // an overlay redirect mark
	KindMetacopy     = "metacopy"      // an overlay metacopy mark
	KindOverlayXattr = "overlay-xattr" // another overlay mark
	KindMount        = "mount"         // a mount hides the entry from the measurer, not from overlayfs
	KindChanging     = "changing"      // it changed while it was measured
	KindImplied      = "implied"       // attributes that an implied directory cannot have got
)

// Difference is one way in which a layer is not what it should be.
type Difference struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`
	Wanted string `json:"wanted,omitempty"`
	Found  string `json:"found,omitempty"`
}

// String is one line for people.
func (d Difference) String() string {
	switch {
	case d.Wanted == "" && d.Found == "":
		return fmt.Sprintf("%q: %s", d.Path, d.Kind)
	case d.Wanted == "":
		return fmt.Sprintf("%q: %s: found %s", d.Path, d.Kind, d.Found)
	case d.Found == "":
		return fmt.Sprintf("%q: %s: wanted %s", d.Path, d.Kind, d.Wanted)
	}
	return fmt.Sprintf("%q: %s: wanted %s, found %s", d.Path, d.Kind, d.Wanted, d.Found)
}

// Compare lists how got differs from want, in the order of paths. An entry may
// differ in several ways. A directory of got where want has an implied one is
// no difference: on disk the two look the same. With that exception, no
// differences means equal digests.
func Compare(want, got *Manifest) []Difference {
	var out []Difference
	w, g := want.Records, got.Records
	for len(w) > 0 || len(g) > 0 {
		switch {
		case len(g) == 0 || (len(w) > 0 && w[0].Path < g[0].Path):
			out = append(out, oneSided(&w[0], KindMissing))
			w = w[1:]
		case len(w) == 0 || g[0].Path < w[0].Path:
			out = append(out, oneSided(&g[0], KindAdded))
			g = g[1:]
		default:
			out = compareRecord(out, &w[0], &g[0])
			w, g = w[1:], g[1:]
		}
	}
	return out
}

// oneSided is the difference for an entry that only one side has.
func oneSided(r *Record, kind string) Difference {
	d := Difference{Path: r.Path, Kind: kind}
	switch {
	case r.Path == "":
		d.Kind = KindOpaque
	case r.Type == Whiteout:
		d.Kind = KindWhiteout
	}
	if kind == KindMissing {
		d.Wanted = r.Type.String()
	} else {
		d.Found = r.Type.String()
	}
	if d.Kind == KindOpaque {
		if kind == KindMissing {
			d.Wanted, d.Found = opaqueText(true), opaqueText(false)
		} else {
			d.Wanted, d.Found = opaqueText(false), opaqueText(true)
		}
	}
	return d
}

func compareRecord(out []Difference, w, g *Record) []Difference {
	add := func(kind, wanted, found string) {
		out = append(out, Difference{Path: w.Path, Kind: kind, Wanted: wanted, Found: found})
	}
	if w.Type != g.Type && (w.Type != Implied || g.Type != Dir) {
		kind := KindType
		if w.Type == Whiteout || g.Type == Whiteout {
			kind = KindWhiteout
		}
		add(kind, w.Type.String(), g.Type.String())
		return out
	}
	if w.Opaque != g.Opaque {
		add(KindOpaque, opaqueText(w.Opaque), opaqueText(g.Opaque))
	}
	if w.Type.bare() {
		return out
	}
	if w.Size != g.Size {
		add(KindSize, fmt.Sprintf("%d bytes", w.Size), fmt.Sprintf("%d bytes", g.Size))
	} else if w.Content != g.Content {
		add(KindContent, "sha256:"+hex.EncodeToString(w.Content[:]), "sha256:"+hex.EncodeToString(g.Content[:]))
	}
	if w.Target != g.Target {
		add(KindLink, fmt.Sprintf("%q", w.Target), fmt.Sprintf("%q", g.Target))
	}
	if w.Major != g.Major || w.Minor != g.Minor {
		add(KindDevice, fmt.Sprintf("%d:%d", w.Major, w.Minor), fmt.Sprintf("%d:%d", g.Major, g.Minor))
	}
	if w.Mode != g.Mode {
		add(KindMode, fmt.Sprintf("%#04o", w.Mode), fmt.Sprintf("%#04o", g.Mode))
	}
	if w.UID != g.UID || w.GID != g.GID {
		add(KindOwner, fmt.Sprintf("%d:%d", w.UID, w.GID), fmt.Sprintf("%d:%d", g.UID, g.GID))
	}
	if w.MTime != g.MTime {
		add(KindMTime, timeText(w.MTime), timeText(g.MTime))
	}
	out = compareXattrs(out, w, g)
	if w.Group != g.Group {
		add(KindHardlink, groupText(w.Group), groupText(g.Group))
	}
	return out
}

func compareXattrs(out []Difference, w, g *Record) []Difference {
	a, b := w.Xattrs, g.Xattrs
	add := func(name, wanted, found string) {
		out = append(out, Difference{Path: w.Path, Kind: KindXattr, Wanted: name + wanted, Found: name + found})
	}
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || (len(a) > 0 && a[0].Name < b[0].Name):
			add(a[0].Name, "="+hexText(a[0].Value), " absent")
			a = a[1:]
		case len(a) == 0 || b[0].Name < a[0].Name:
			add(b[0].Name, " absent", "="+hexText(b[0].Value))
			b = b[1:]
		default:
			if a[0].Value != b[0].Value {
				add(a[0].Name, "="+hexText(a[0].Value), "="+hexText(b[0].Value))
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

func opaqueText(o bool) string {
	if o {
		return "opaque"
	}
	return "not opaque"
}

func groupText(first string) string {
	if first == "" {
		return "no other name"
	}
	return fmt.Sprintf("the inode of %q", first)
}

// hexText shows the beginning of an attribute's value; values can be long.
func hexText(v string) string {
	const most = 48
	if len(v) > most {
		return fmt.Sprintf("0x%x… (%d bytes)", v[:most], len(v))
	}
	return fmt.Sprintf("0x%x", v)
}

func timeText(sec int64) string {
	return time.Unix(sec, 0).UTC().Format(time.RFC3339)
}
