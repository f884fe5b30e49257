package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Subject is one would-be launch, as the agent knows it.
type Subject struct {
	// Namespace is the containerd namespace.
	Namespace string
	// Image is the image's name as containerd has it; empty for a rootfs
	// without an image.
	Image string
	// ManifestDigest is the digest of the manifest that the container's layers
	// were checked against. IndexDigest is that of the index the image's name
	// points to, if it is one and the caller has checked that it lists the
	// manifest.
	ManifestDigest string
	IndexDigest    string
	// TreeDigest is the measured digest of a rootfs without an image.
	TreeDigest string
	// Labels and Annotations are the container's.
	Labels      map[string]string
	Annotations map[string]string
	// SignedBy are the verified signed references that list this manifest, each
	// "KEY/BUNDLE".
	SignedBy []string
}

// IsNamespace reports whether s can be the name of a containerd namespace.
func IsNamespace(s string) bool { return namespaceShape.MatchString(s) }

// is reports whether the image is what r names.
func (s Subject) is(r ImageRule) bool {
	if r.Digest != "" {
		return r.Digest == s.ManifestDigest || r.Digest == s.IndexDigest || r.Digest == s.TreeDigest
	}
	for _, by := range s.SignedBy {
		key, _, _ := strings.Cut(by, "/")
		if r.SignedBy != "" && (by == r.SignedBy || key == r.SignedBy) {
			return true
		}
	}
	return false
}

func (s Subject) isOneOf(rules []ImageRule) (ImageRule, bool) {
	i := slices.IndexFunc(rules, s.is)
	if i < 0 {
		return ImageRule{}, false
	}
	return rules[i], true
}

// identity names the image for people.
func (s Subject) identity() string {
	switch {
	case s.ManifestDigest != "":
		return s.ManifestDigest
	case s.TreeDigest != "":
		return s.TreeDigest
	}
	return "an image without a digest"
}

// String is "digest …" or "signed by …".
func (r ImageRule) String() string {
	if r.Digest != "" {
		return "digest " + r.Digest
	}
	return "signed by " + r.SignedBy
}

// selects reports whether m selects s, and why or why not.
func (m Match) selects(s Subject) (bool, string) {
	var because []string
	if len(m.Namespaces) > 0 {
		if !slices.Contains(m.Namespaces, s.Namespace) {
			return false, fmt.Sprintf("namespace %q is not %s", s.Namespace, oneOf(m.Namespaces))
		}
		because = append(because, fmt.Sprintf("namespace %q", s.Namespace))
	}
	if len(m.Images) > 0 {
		r, ok := s.isOneOf(m.Images)
		if !ok {
			return false, s.identity() + " is not one of its images"
		}
		because = append(because, r.String())
	}
	if len(m.Names) > 0 {
		i := slices.IndexFunc(m.Names, func(p string) bool { return matchText(p, s.Image) })
		if i < 0 {
			return false, fmt.Sprintf("image name %q is not %s", s.Image, oneOf(m.Names))
		}
		because = append(because, fmt.Sprintf("image name %q is %s", s.Image, m.Names[i]))
	}
	for _, set := range []struct {
		what       string
		want, have map[string]string
	}{{"label", m.Labels, s.Labels}, {"annotation", m.Annotations, s.Annotations}} {
		for _, key := range slices.Sorted(maps.Keys(set.want)) {
			want := set.want[key]
			have, ok := set.have[key]
			switch {
			case !ok:
				return false, fmt.Sprintf("%s %q is not set", set.what, key)
			case want != "*" && want != have:
				return false, fmt.Sprintf("%s %q is %q and not %q", set.what, key, have, want)
			}
			because = append(because, fmt.Sprintf("%s %s=%s", set.what, key, have))
		}
	}
	if len(because) == 0 {
		return true, "it selects every launch"
	}
	return true, strings.Join(because, ", ")
}

func oneOf(values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	return "one of " + strings.Join(values, ", ")
}
