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

	"github.com/sealift/sealift/internal/strictyaml"
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
	d := newDecoder(file)
	if len(data) > MaxFile {
		d.Fail(nil, "", "split it", "is %d bytes long, more than %d", len(data), MaxFile)
		return nil, d.Errors
	}
	sum := sha256.Sum256(data)
	p := &Policy{File: file, Digest: "sha256:" + hex.EncodeToString(sum[:])}
	root := d.Document(data)
	if root == nil {
		return nil, d.Errors
	}
	d.policy(root, p)
	if len(d.Errors) > 0 {
		slices.SortStableFunc(d.Errors, func(a, b *Error) int { return a.Line - b.Line })
		return nil, d.Errors
	}
	return p, nil
}

func (d *decoder) policy(root *yaml.Node, p *Policy) {
	constant := func(want string) func(*yaml.Node, string) {
		return func(n *yaml.Node, at string) {
			if s, ok := d.String(n, at); ok && s != want {
				d.Fail(n, at, "this version reads "+want, "unknown value %q", s)
			}
		}
	}
	d.Mapping(root, "", []field{
		{Name: "apiVersion", Required: true, Read: constant(APIVersion)},
		{Name: "kind", Required: true, Read: constant(Kind)},
		{Name: "metadata", Required: true, Read: func(n *yaml.Node, at string) {
			d.Mapping(n, at, []field{{Name: "name", Required: true, Read: func(n *yaml.Node, at string) {
				d.shaped(n, at, nameShape, "lower-case letters, digits, - and .", &p.Name)
			}}})
		}},
		{Name: "spec", Required: true, Read: func(n *yaml.Node, at string) { d.spec(n, at, p) }},
	})
}

func (d *decoder) spec(n *yaml.Node, at string, p *Policy) {
	s := &p.Spec
	nodes := map[string]*yaml.Node{}
	part := func(name string, read func(*yaml.Node, string)) field {
		return field{Name: name, Read: func(n *yaml.Node, at string) {
			nodes[name] = n
			read(n, at)
		}}
	}
	matched := false
	if !d.Mapping(n, at, []field{
		{Name: "match", Required: true, Hint: "write match: {} to select every launch", Read: func(n *yaml.Node, at string) { matched = true; d.match(n, at, &p.Match) }},
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
	if matched && len(nodes) == 0 && len(d.Errors) == 0 {
		d.Fail(n, at, "say one of content, level, images, minimumBinding, rootfsWithoutImage", "says nothing")
	}
	for _, name := range []string{"mounts", "hooks"} {
		if n := nodes[name]; n != nil && s.Level != Restricted {
			d.Fail(n, strictyaml.Join(at, name), "add level: restricted, or remove the list: other levels let everything through and record it",
				"is only asked under level restricted")
		}
	}
	for _, name := range []string{"images", "minimumBinding"} {
		if n := nodes[name]; n != nil && s.Content == Off {
			d.Fail(n, strictyaml.Join(at, name), "say content: audit to have it recorded, or enforce", "is not asked under content: off")
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
		d.Fail(nodes[name], strictyaml.Join(at, name), hint, "%s is looser than the default %s, and %s", value, fallback, why)
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
			d.Fail(n, at, "remove the selector to match all", "is empty")
		}
	}
	d.Mapping(n, at, []field{
		{Name: "namespaces", Read: func(n *yaml.Node, at string) {
			full(n, at)
			d.List(n, at, func(n *yaml.Node, at string) {
				var ns string
				if d.shaped(n, at, namespaceShape, "a containerd namespace, without patterns", &ns) {
					m.Namespaces = append(m.Namespaces, ns)
				}
			})
		}},
		{Name: "images", Read: func(n *yaml.Node, at string) {
			full(n, at)
			d.List(n, at, func(n *yaml.Node, at string) { m.Images = append(m.Images, d.image(n, at)) })
		}},
		{Name: "names", Read: func(n *yaml.Node, at string) {
			full(n, at)
			d.List(n, at, func(n *yaml.Node, at string) {
				if s, ok := d.String(n, at); ok {
					m.Names = append(m.Names, s)
				}
			})
		}},
		{Name: "labels", Read: func(n *yaml.Node, at string) { full(n, at); d.pairs(n, at, &m.Labels) }},
		{Name: "annotations", Read: func(n *yaml.Node, at string) { full(n, at); d.pairs(n, at, &m.Annotations) }},
	})
}

// pairs reads a mapping of free keys to strings.
func (d *decoder) pairs(n *yaml.Node, at string, into *map[string]string) {
	if !d.Kind(n, at, yaml.MappingNode, "!!map") {
		return
	}
	*into = map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, ok := d.MapKey(n.Content[i], at)
		if !ok {
			continue
		}
		if _, dup := (*into)[key]; dup {
			d.Fail(n.Content[i], strictyaml.Join(at, key), "keep one of the two", "given twice")
			continue
		}
		// The empty value is a value here: a label can be set to nothing.
		if value := n.Content[i+1]; d.Kind(value, strictyaml.Join(at, key), yaml.ScalarNode, "!!str") {
			(*into)[key] = value.Value
		}
	}
}

// allow reads {allow: [...]}.
func (d *decoder) allow(n *yaml.Node, at string, read func(*yaml.Node, string)) {
	d.Mapping(n, at, []field{{Name: "allow", Required: true, Read: func(n *yaml.Node, at string) { d.List(n, at, read) }}})
}

func (d *decoder) image(n *yaml.Node, at string) ImageRule {
	var r ImageRule
	if !d.Mapping(n, at, []field{
		{Name: "digest", Read: func(n *yaml.Node, at string) {
			d.shaped(n, at, digestShape, "sha256: and 64 lower-case hex digits; a name or a tag is not an identity", &r.Digest)
		}},
		{Name: "signedBy", Read: func(n *yaml.Node, at string) {
			d.shaped(n, at, signedByShape, "KEY or KEY/BUNDLE, where KEY is the name of a file in trust.d without .pem", &r.SignedBy)
		}},
	}) {
		return r
	}
	if len(n.Content) != 2 {
		d.Fail(n, at, "write two entries to allow either", "wants exactly one of digest and signedBy")
	}
	return r
}

func (d *decoder) mount(n *yaml.Node, at string) MountRule {
	var r MountRule
	d.Mapping(n, at, []field{
		{Name: "destination", Required: true, Read: func(n *yaml.Node, at string) { d.path(n, at, true, &r.Destination) }},
		{Name: "source", Read: func(n *yaml.Node, at string) { d.path(n, at, true, &r.Source) }},
		{Name: "readOnly", Read: func(n *yaml.Node, at string) { r.ReadOnly = d.Bool(n, at) }},
	})
	return r
}

func (d *decoder) hook(n *yaml.Node, at string) HookRule {
	var r HookRule
	d.Mapping(n, at, []field{
		{Name: "path", Required: true, Read: func(n *yaml.Node, at string) { d.path(n, at, false, &r.Path) }},
		{Name: "stages", Read: func(n *yaml.Node, at string) {
			d.List(n, at, func(n *yaml.Node, at string) {
				var s string
				word(d, n, at, hookStages, &s)
				r.Stages = append(r.Stages, s)
			})
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				d.Fail(n, at, "remove the line to accept every stage", "is empty")
			}
		}},
		{Name: "args", Read: func(n *yaml.Node, at string) {
			r.Args = []string{}
			d.List(n, at, func(n *yaml.Node, at string) {
				if d.Kind(n, at, yaml.ScalarNode, "!!str") {
					r.Args = append(r.Args, n.Value)
				}
			})
		}},
		{Name: "sha256", Read: func(n *yaml.Node, at string) { d.shaped(n, at, sha256Shape, "64 lower-case hex digits", &r.SHA256) }},
	})
	return r
}

// shaped reads a string that matches shape; want describes the shape.
func (d *decoder) shaped(n *yaml.Node, at string, shape *regexp.Regexp, want string, into *string) bool {
	s, ok := d.String(n, at)
	if !ok {
		return false
	}
	if !shape.MatchString(s) {
		d.Fail(n, at, "wanted: "+want, "%q is not of the right form", s)
		return false
	}
	*into = s
	return true
}

// path reads an absolute, clean path, with patterns where they are allowed.
func (d *decoder) path(n *yaml.Node, at string, pattern bool, into *string) {
	s, ok := d.String(n, at)
	if !ok {
		return
	}
	switch {
	case !path.IsAbs(s) || path.Clean(s) != s:
		d.Fail(n, at, "an absolute path without . and .. and without a slash at the end", "%q is not a clean path", s)
	case strings.ContainsRune(s, 0):
		d.Fail(n, at, "", "%q holds a NUL", s)
	case !pattern && strings.Contains(s, "*"):
		d.Fail(n, at, "write one entry for each path", "%q: no patterns here", s)
	case pattern:
		if err := checkPathPattern(s); err != nil {
			d.Fail(n, at, "* stands for one name or a part of it, ** alone for any number of names", "%v", err)
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
