package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// effectiveKind heads the canonical form of an Effective.
const effectiveKind = "EffectivePolicy"

// Canonical is e as YAML with fixed order, layout and quoting: equal rules give
// equal bytes, and ParseCanonical reads exactly these bytes and no others.
func (e Effective) Canonical() []byte {
	var w canonical
	w.line("apiVersion: %s", APIVersion)
	w.line("kind: %s", effectiveKind)
	w.line("content: %s", e.Content)
	w.line("level: %s", e.Level)
	w.line("minimumBinding: %s", e.MinimumBinding)
	w.line("rootfsWithoutImage: %s", e.RootfsWithoutImage)
	w.open("images", len(e.Images), "")
	for _, l := range byPolicy(e.Images, func(l ImageAllow) string { return l.Policy }) {
		w.line("- policy: %s", quote(l.Policy))
		w.open("allow", len(l.Allow), "  ")
		for _, r := range sortedRules(l.Allow) {
			if r.Digest != "" {
				w.line("  - digest: %s", quote(r.Digest))
			} else {
				w.line("  - signedBy: %s", quote(r.SignedBy))
			}
		}
	}
	w.open("restricted", len(e.Restricted), "")
	for _, l := range byPolicy(e.Restricted, func(l RestrictedAllow) string { return l.Policy }) {
		w.line("- policy: %s", quote(l.Policy))
		w.open("mounts", len(l.Mounts), "  ")
		for _, r := range sortedMounts(l.Mounts) {
			w.line("  - destination: %s", quote(r.Destination))
			if r.Source != "" {
				w.line("    source: %s", quote(r.Source))
			}
			w.line("    readOnly: %t", r.ReadOnly)
		}
		w.open("hooks", len(l.Hooks), "  ")
		for _, r := range sortedHooks(l.Hooks) {
			w.line("  - path: %s", quote(r.Path))
			if len(r.Stages) > 0 {
				w.strings("    stages", r.Stages)
			}
			if r.Args != nil {
				w.strings("    args", r.Args)
			}
			if r.SHA256 != "" {
				w.line("    sha256: %s", quote(r.SHA256))
			}
		}
	}
	return w.Bytes()
}

// ParseCanonical reads what Canonical wrote; Sources and Steps stay empty. Any
// other bytes are an error, even if they mean the same.
func ParseCanonical(data []byte) (Effective, error) {
	d := newDecoder("effective policy")
	var e Effective
	root := d.Document(data)
	if root == nil {
		return Effective{}, d.Errors
	}
	d.Mapping(root, "", []field{
		{Name: "apiVersion", Required: true, Read: func(*yaml.Node, string) {}}, // these two by the comparison below
		{Name: "kind", Required: true, Read: func(*yaml.Node, string) {}},
		{Name: "content", Required: true, Read: func(n *yaml.Node, at string) { word(d, n, at, modes, &e.Content) }},
		{Name: "level", Required: true, Read: func(n *yaml.Node, at string) { word(d, n, at, levels, &e.Level) }},
		{Name: "minimumBinding", Required: true, Read: func(n *yaml.Node, at string) { word(d, n, at, bindings, &e.MinimumBinding) }},
		{Name: "rootfsWithoutImage", Required: true, Read: func(n *yaml.Node, at string) { word(d, n, at, permissions, &e.RootfsWithoutImage) }},
		{Name: "images", Required: true, Read: func(n *yaml.Node, at string) {
			d.List(n, at, func(n *yaml.Node, at string) {
				var l ImageAllow
				d.Mapping(n, at, []field{
					d.owner(&l.Policy),
					{Name: "allow", Required: true, Read: func(n *yaml.Node, at string) {
						d.List(n, at, func(n *yaml.Node, at string) { l.Allow = append(l.Allow, d.image(n, at)) })
					}},
				})
				e.Images = append(e.Images, l)
			})
		}},
		{Name: "restricted", Required: true, Read: func(n *yaml.Node, at string) {
			d.List(n, at, func(n *yaml.Node, at string) {
				var l RestrictedAllow
				d.Mapping(n, at, []field{
					d.owner(&l.Policy),
					{Name: "mounts", Required: true, Read: func(n *yaml.Node, at string) {
						d.List(n, at, func(n *yaml.Node, at string) { l.Mounts = append(l.Mounts, d.mount(n, at)) })
					}},
					{Name: "hooks", Required: true, Read: func(n *yaml.Node, at string) {
						d.List(n, at, func(n *yaml.Node, at string) { l.Hooks = append(l.Hooks, d.hook(n, at)) })
					}},
				})
				e.Restricted = append(e.Restricted, l)
			})
		}},
	})
	if len(d.Errors) > 0 {
		return Effective{}, d.Errors
	}
	e.AcceptBinding = accepted(e.MinimumBinding)
	if !bytes.Equal(e.Canonical(), data) {
		return Effective{}, &Error{File: d.File, Message: "not in canonical form"}
	}
	return e, nil
}

func (d *decoder) owner(into *string) field {
	return field{Name: "policy", Required: true, Read: func(n *yaml.Node, at string) { d.shaped(n, at, nameShape, "the name of a policy", into) }}
}

type canonical struct{ bytes.Buffer }

func (w *canonical) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// open begins a list; an empty one is written out as such.
func (w *canonical) open(name string, n int, indent string) {
	if n == 0 {
		w.line("%s%s: []", indent, name)
		return
	}
	w.line("%s%s:", indent, name)
}

func (w *canonical) strings(name string, values []string) {
	w.WriteString(name + ": [")
	for i, v := range values {
		if i > 0 {
			w.WriteString(", ")
		}
		w.WriteString(quote(v))
	}
	w.WriteString("]\n")
}

// quote writes s as a YAML double-quoted scalar. Go's ASCII escapes are a subset
// of YAML's, and s is valid UTF-8 because YAML is.
func quote(s string) string { return strconv.QuoteToASCII(s) }

func byPolicy[L any](lists []L, name func(L) string) []L {
	return slices.SortedStableFunc(slices.Values(lists), func(a, b L) int { return cmp.Compare(name(a), name(b)) })
}

func sortedRules(rules []ImageRule) []ImageRule {
	return slices.Compact(slices.SortedFunc(slices.Values(rules), func(a, b ImageRule) int {
		return cmp.Or(cmp.Compare(a.Digest, b.Digest), cmp.Compare(a.SignedBy, b.SignedBy))
	}))
}

func sortedMounts(rules []MountRule) []MountRule {
	return slices.Compact(slices.SortedFunc(slices.Values(rules), func(a, b MountRule) int {
		return cmp.Or(cmp.Compare(a.Destination, b.Destination), cmp.Compare(a.Source, b.Source), compareBool(a.ReadOnly, b.ReadOnly))
	}))
}

func sortedHooks(rules []HookRule) []HookRule {
	var out []HookRule
	for _, r := range rules {
		r.Stages = slices.Compact(slices.Sorted(slices.Values(r.Stages)))
		out = append(out, r)
	}
	compare := func(a, b HookRule) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), slices.Compare(a.Stages, b.Stages),
			compareBool(a.Args != nil, b.Args != nil), slices.Compare(a.Args, b.Args), cmp.Compare(a.SHA256, b.SHA256))
	}
	slices.SortFunc(out, compare)
	return slices.CompactFunc(out, func(a, b HookRule) bool { return compare(a, b) == 0 })
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
