package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxFile bounds a policy file, in bytes.
	MaxFile   = 256 << 10
	maxString = 4096
)

var (
	nameShape      = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
	digestShape    = regexp.MustCompile(`^(sha256|sealift-tree-v1):[0-9a-f]{64}$`)
	signedByShape  = regexp.MustCompile(`^[A-Za-z0-9][-._A-Za-z0-9]{0,127}(/[A-Za-z0-9][-._A-Za-z0-9]{0,127})?$`)
	sha256Shape    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	namespaceShape = regexp.MustCompile(`^[A-Za-z0-9]+([-._][A-Za-z0-9]+)*$`)
)

// Parse reads one policy; file names it in errors. Its error is an Errors that
// lists everything wrong.
func Parse(file string, data []byte) (*Policy, error) {
	d := &decoder{file: file}
	if len(data) > MaxFile {
		d.fail(nil, "", "split it", "is %d bytes long, more than %d", len(data), MaxFile)
		return nil, d.errs
	}
	sum := sha256.Sum256(data)
	p := &Policy{File: file, Digest: "sha256:" + hex.EncodeToString(sum[:])}
	root := d.document(data)
	if root == nil {
		return nil, d.errs
	}
	d.policy(root, p)
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b *Error) int { return a.Line - b.Line })
		return nil, d.errs
	}
	return p, nil
}

func (d *decoder) policy(root *yaml.Node, p *Policy) {
	constant := func(want string) func(*yaml.Node, string) {
		return func(n *yaml.Node, at string) {
			if s, ok := d.str(n, at); ok && s != want {
				d.fail(n, at, "this version reads "+want, "unknown value %q", s)
			}
		}
	}
	d.mapping(root, "", []field{
		{"apiVersion", true, constant(APIVersion)},
		{"kind", true, constant(Kind)},
		{"metadata", true, func(n *yaml.Node, at string) {
			d.mapping(n, at, []field{{"name", true, func(n *yaml.Node, at string) {
				d.shaped(n, at, nameShape, "lower-case letters, digits, - and .", &p.Name)
			}}})
		}},
		{"spec", true, func(n *yaml.Node, at string) { d.spec(n, at, p) }},
	})
}

func (d *decoder) spec(n *yaml.Node, at string, p *Policy) {
	s := &p.Spec
	nodes := map[string]*yaml.Node{}
	part := func(name string, read func(*yaml.Node, string)) field {
		return field{name, false, func(n *yaml.Node, at string) {
			nodes[name] = n
			read(n, at)
		}}
	}
	matched := false
	if !d.mapping(n, at, []field{
		{"match", true, func(n *yaml.Node, at string) { matched = true; d.match(n, at, &p.Match) }},
		part("content", func(n *yaml.Node, at string) { word(d, n, at, modes, &s.Content) }),
		part("level", func(n *yaml.Node, at string) { word(d, n, at, levels, &s.Level) }),
		part("minimumBinding", func(n *yaml.Node, at string) { word(d, n, at, bindings, &s.MinimumBinding) }),
		part("rootfsWithoutImage", func(n *yaml.Node, at string) { word(d, n, at, permissions, &s.RootfsWithoutImage) }),
		part("images", func(n *yaml.Node, at string) {
			s.Images = &ImageList{}
			d.allow(n, at, func(n *yaml.Node, at string) { s.Images.Allow = append(s.Images.Allow, d.image(n, at)) })
		}),
		part("mounts", func(n *yaml.Node, at string) {
			d.allow(n, at, func(n *yaml.Node, at string) { s.Mounts = append(s.Mounts, d.mount(n, at)) })
		}),
		part("hooks", func(n *yaml.Node, at string) {
			d.allow(n, at, func(n *yaml.Node, at string) { s.Hooks = append(s.Hooks, d.hook(n, at)) })
		}),
	}) {
		return
	}
	if matched && len(nodes) == 0 && len(d.errs) == 0 {
		d.fail(n, at, "say one of content, level, images, minimumBinding, rootfsWithoutImage", "says nothing")
	}
	for _, name := range []string{"mounts", "hooks"} {
		if n := nodes[name]; n != nil && s.Level != Restricted {
			d.fail(n, join(at, name), "add level: restricted, or remove the list: other levels let everything through and record it",
				"is only asked under level restricted")
		}
	}
	for _, name := range []string{"images", "minimumBinding"} {
		if n := nodes[name]; n != nil && s.Content == Off {
			d.fail(n, join(at, name), "say content: audit to have it recorded, or enforce", "is not asked under content: off")
		}
	}
	d.loosening(nodes, at, p)
}

// loosening refuses parts below their default in a policy whose match may not
// loosen.
func (d *decoder) loosening(nodes map[string]*yaml.Node, at string, p *Policy) {
	if p.Match.mayLoosen() {
		return
	}
	s := p.Spec
	check := func(name, value, fallback string, below bool) {
		if !below {
			return
		}
		why, hint := "match selects no namespaces", "name the containerd namespaces it is for: match.namespaces"
		switch tenant := p.Match.tenantControlled(); {
		case len(tenant) > 0:
			why = "match selects by " + strings.Join(tenant, " and ") + ", which a tenant can choose"
			hint = "names, labels and annotations may only tighten; to loosen, select by namespaces, and images by digest or signedBy, alone"
		}
		d.fail(nodes[name], join(at, name), hint, "%s is looser than the default %s, and %s", value, fallback, why)
	}
	check("content", string(s.Content), string(defaultContent), s.Content != "" && looser(modes, s.Content, defaultContent))
	check("level", string(s.Level), string(defaultLevel), s.Level != "" && looser(levels, s.Level, defaultLevel))
	check("minimumBinding", string(s.MinimumBinding), string(defaultBinding), s.MinimumBinding != "" && looser(bindings, s.MinimumBinding, defaultBinding))
	check("rootfsWithoutImage", string(s.RootfsWithoutImage), string(defaultRootfs), s.RootfsWithoutImage != "" && looser(permissions, s.RootfsWithoutImage, defaultRootfs))
}

func (d *decoder) match(n *yaml.Node, at string, m *Match) {
	// An empty selector could be meant as "none" or as "all": refuse it.
	full := func(n *yaml.Node, at string) {
		if len(n.Content) == 0 && (n.Kind == yaml.SequenceNode || n.Kind == yaml.MappingNode) {
			d.fail(n, at, "remove the selector to match all", "is empty")
		}
	}
	d.mapping(n, at, []field{
		{"namespaces", false, func(n *yaml.Node, at string) {
			full(n, at)
			d.list(n, at, func(n *yaml.Node, at string) {
				var ns string
				if d.shaped(n, at, namespaceShape, "a containerd namespace, without patterns", &ns) {
					m.Namespaces = append(m.Namespaces, ns)
				}
			})
		}},
		{"images", false, func(n *yaml.Node, at string) {
			full(n, at)
			d.list(n, at, func(n *yaml.Node, at string) { m.Images = append(m.Images, d.image(n, at)) })
		}},
		{"names", false, func(n *yaml.Node, at string) {
			full(n, at)
			d.list(n, at, func(n *yaml.Node, at string) {
				if s, ok := d.str(n, at); ok {
					m.Names = append(m.Names, s)
				}
			})
		}},
		{"labels", false, func(n *yaml.Node, at string) { full(n, at); d.pairs(n, at, &m.Labels) }},
		{"annotations", false, func(n *yaml.Node, at string) { full(n, at); d.pairs(n, at, &m.Annotations) }},
	})
}

// pairs reads a mapping of free keys to strings.
func (d *decoder) pairs(n *yaml.Node, at string, into *map[string]string) {
	if !d.kind(n, at, yaml.MappingNode, "!!map") {
		return
	}
	*into = map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, ok := d.key(n.Content[i], at)
		if !ok {
			continue
		}
		if _, dup := (*into)[key]; dup {
			d.fail(n.Content[i], join(at, key), "keep one of the two", "given twice")
			continue
		}
		// The empty value is a value here: a label can be set to nothing.
		if value := n.Content[i+1]; d.kind(value, join(at, key), yaml.ScalarNode, "!!str") {
			(*into)[key] = value.Value
		}
	}
}

// allow reads {allow: [...]}.
func (d *decoder) allow(n *yaml.Node, at string, read func(*yaml.Node, string)) {
	d.mapping(n, at, []field{{"allow", true, func(n *yaml.Node, at string) { d.list(n, at, read) }}})
}

func (d *decoder) image(n *yaml.Node, at string) ImageRule {
	var r ImageRule
	if !d.mapping(n, at, []field{
		{"digest", false, func(n *yaml.Node, at string) {
			d.shaped(n, at, digestShape, "sha256: and 64 lower-case hex digits; a name or a tag is not an identity", &r.Digest)
		}},
		{"signedBy", false, func(n *yaml.Node, at string) {
			d.shaped(n, at, signedByShape, "KEY or KEY/BUNDLE, where KEY is the name of a file in trust.d without .pem", &r.SignedBy)
		}},
	}) {
		return r
	}
	if len(n.Content) != 2 {
		d.fail(n, at, "write two entries to allow either", "wants exactly one of digest and signedBy")
	}
	return r
}

func (d *decoder) mount(n *yaml.Node, at string) MountRule {
	var r MountRule
	d.mapping(n, at, []field{
		{"destination", true, func(n *yaml.Node, at string) { d.path(n, at, true, &r.Destination) }},
		{"source", false, func(n *yaml.Node, at string) { d.path(n, at, true, &r.Source) }},
		{"readOnly", false, func(n *yaml.Node, at string) { r.ReadOnly = d.boolean(n, at) }},
	})
	return r
}

func (d *decoder) hook(n *yaml.Node, at string) HookRule {
	var r HookRule
	d.mapping(n, at, []field{
		{"path", true, func(n *yaml.Node, at string) { d.path(n, at, false, &r.Path) }},
		{"stages", false, func(n *yaml.Node, at string) {
			d.list(n, at, func(n *yaml.Node, at string) {
				var s string
				word(d, n, at, hookStages, &s)
				r.Stages = append(r.Stages, s)
			})
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.fail(n, at, "remove the line to accept every stage", "is empty")
			}
		}},
		{"args", false, func(n *yaml.Node, at string) {
			r.Args = []string{}
			d.list(n, at, func(n *yaml.Node, at string) {
				if d.kind(n, at, yaml.ScalarNode, "!!str") {
					r.Args = append(r.Args, n.Value)
				}
			})
		}},
		{"sha256", false, func(n *yaml.Node, at string) { d.shaped(n, at, sha256Shape, "64 lower-case hex digits", &r.SHA256) }},
	})
	return r
}

// shaped reads a string that matches shape; want describes the shape.
func (d *decoder) shaped(n *yaml.Node, at string, shape *regexp.Regexp, want string, into *string) bool {
	s, ok := d.str(n, at)
	if !ok {
		return false
	}
	if !shape.MatchString(s) {
		d.fail(n, at, "wanted: "+want, "%q is not of the right form", s)
		return false
	}
	*into = s
	return true
}

// path reads an absolute, clean path, with patterns where they are allowed.
func (d *decoder) path(n *yaml.Node, at string, pattern bool, into *string) {
	s, ok := d.str(n, at)
	if !ok {
		return
	}
	switch {
	case !path.IsAbs(s) || path.Clean(s) != s:
		d.fail(n, at, "an absolute path without . and .. and without a slash at the end", "%q is not a clean path", s)
	case strings.ContainsRune(s, 0):
		d.fail(n, at, "", "%q holds a NUL", s)
	case !pattern && strings.Contains(s, "*"):
		d.fail(n, at, "write one entry for each path", "%q: no patterns here", s)
	case pattern:
		if err := checkPathPattern(s); err != nil {
			d.fail(n, at, "* stands for one name or a part of it, ** alone for any number of names", "%v", err)
			return
		}
		*into = s
	default:
		*into = s
	}
}

// String lists what the match selects by, for people.
func (m Match) String() string {
	var parts []string
	add := func(what string, values []string) {
		if len(values) > 0 {
			parts = append(parts, what+" "+strings.Join(values, "|"))
		}
	}
	add("namespace", m.Namespaces)
	images := make([]string, len(m.Images))
	for i, r := range m.Images {
		images[i] = r.String()
	}
	add("image", images)
	add("name", m.Names)
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		parts = append(parts, fmt.Sprintf("label %s=%s", k, m.Labels[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(m.Annotations)) {
		parts = append(parts, fmt.Sprintf("annotation %s=%s", k, m.Annotations[k]))
	}
	if len(parts) == 0 {
		return "every launch"
	}
	return strings.Join(parts, ", ")
}
