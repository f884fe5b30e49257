package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Set is every policy of a host. The zero Set has none.
type Set struct {
	policies []*Policy
}

// NewSet puts policies together. Its error is an Errors when two bear one name.
func NewSet(policies ...*Policy) (*Set, error) {
	s := &Set{policies: slices.Clone(policies)}
	slices.SortFunc(s.policies, func(a, b *Policy) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.File, b.File))
	})
	var errs Errors
	for i := 1; i < len(s.policies); i++ {
		if a, b := s.policies[i-1], s.policies[i]; a.Name == b.Name {
			errs = append(errs, &Error{File: b.File, Field: "metadata.name",
				Message: fmt.Sprintf("%q is the name of the policy in %s too", b.Name, a.File), Hint: "give each policy a name of its own"})
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return s, nil
}

// Policies are the set's policies in order of name. They must not be changed.
func (s *Set) Policies() []*Policy { return slices.Clone(s.policies) }

// Digest identifies the set: the SHA-256 over each policy's name and digest, in
// order of name, as "sha256:<hex>".
func (s *Set) Digest() string {
	h := sha256.New()
	for _, p := range s.policies {
		fmt.Fprintf(h, "%s %s\n", p.Name, p.Digest)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Evaluate merges the policies that select subj.
func (s *Set) Evaluate(subj Subject) Effective {
	var m merge
	for _, p := range s.policies {
		ok, why := p.Match.selects(subj)
		if !ok {
			m.step("%s: policy %s does not match: %s", p.File, p.Name, why)
			continue
		}
		m.step("%s: policy %s matches because: %s", p.File, p.Name, why)
		m.add(p)
	}
	return m.effective()
}

// merge gathers what matching policies say. Adding is commutative and, but for
// the steps, idempotent.
type merge struct {
	e Effective
}

func (m *merge) step(format string, args ...any) {
	m.e.Steps = append(m.e.Steps, fmt.Sprintf(format, args...))
}

func (m *merge) add(p *Policy) {
	m.e.Sources = append(m.e.Sources, p.Name)
	s := p.Spec
	content := s.Content
	if content == "" && (s.Images != nil || s.MinimumBinding != "") {
		// A list that is only asked under enforce must not be switched off by
		// another policy's audit: whoever writes the list means it.
		content = defaultContent
		m.step("  content: %s, because it speaks of images or binding", content)
	}
	say(m, "content", modes, &m.e.Content, content, s.Content != "")
	say(m, "level", levels, &m.e.Level, s.Level, true)
	say(m, "minimumBinding", bindings, &m.e.MinimumBinding, s.MinimumBinding, true)
	say(m, "rootfsWithoutImage", permissions, &m.e.RootfsWithoutImage, s.RootfsWithoutImage, true)
	if s.Images != nil {
		m.step("  images: only the %d of its list", len(s.Images.Allow))
		m.e.Images = append(m.e.Images, ImageAllow{Policy: p.Name, Allow: sortedRules(s.Images.Allow)})
	}
	if s.Level == Restricted {
		m.step("  restricted: %d mounts and %d hooks of its lists", len(s.Mounts), len(s.Hooks))
		m.e.Restricted = append(m.e.Restricted, RestrictedAllow{Policy: p.Name, Mounts: sortedMounts(s.Mounts), Hooks: sortedHooks(s.Hooks)})
	}
}

// say merges one word and tells what came of it.
func say[W ~string](m *merge, part string, scale []W, into *W, word W, tell bool) {
	if word == "" {
		return
	}
	old := *into
	*into = stricter(scale, old, word)
	switch {
	case !tell:
	case old != "" && old != word && *into == old:
		m.step("  %s: %s, but %s of another match is stricter", part, word, old)
	case old != "" && old != word:
		m.step("  %s: %s, stricter than %s of another match", part, word, old)
	default:
		m.step("  %s: %s", part, word)
	}
}

// effective fills in the defaults.
func (m *merge) effective() Effective {
	e, d := m.e, Default()
	var defaults []string
	fill(&defaults, "content", &e.Content, d.Content)
	fill(&defaults, "level", &e.Level, d.Level)
	fill(&defaults, "minimumBinding", &e.MinimumBinding, d.MinimumBinding)
	fill(&defaults, "rootfsWithoutImage", &e.RootfsWithoutImage, d.RootfsWithoutImage)
	e.AcceptBinding = accepted(e.MinimumBinding)
	if len(defaults) > 0 {
		e.Steps = append(e.Steps, "default: "+strings.Join(defaults, ", "))
	}
	return e
}

func fill[W ~string](told *[]string, part string, into *W, fallback W) {
	if *into == "" {
		*into = fallback
		*told = append(*told, fmt.Sprintf("%s: %s", part, fallback))
	}
}
