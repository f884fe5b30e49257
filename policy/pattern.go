package policy

import (
	"fmt"
	"path"
	"strings"
)

// matchText reports whether s matches pattern, in which * stands for any run of
// characters, slashes included.
func matchText(pattern, s string) bool {
	first, rest, found := strings.Cut(pattern, "*")
	if !found {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	parts := strings.Split(rest, "*")
	last := parts[len(parts)-1]
	for _, p := range parts[:len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, last)
}

// checkPathPattern refuses ** inside a name, where it would look like more than
// it is.
func checkPathPattern(pattern string) error {
	for name := range strings.SplitSeq(pattern, "/") {
		if strings.Contains(name, "**") && name != "**" {
			return fmt.Errorf("%q: ** beside other characters", pattern)
		}
	}
	return nil
}

// matchPath reports whether the clean absolute path p matches pattern: * stands
// for any run of characters but a slash, ** as a whole name for any number of
// names. A path that is not clean and absolute matches nothing, because what it
// resolves to is not what is compared.
func matchPath(pattern, p string) bool {
	if !path.IsAbs(p) || path.Clean(p) != p {
		return false
	}
	names := strings.Split(p, "/")
	parts := strings.Split(pattern, "/")
	// reach[j]: the parts so far match names[:j]. One row, part by part, keeps
	// the cost at len(parts)×len(names) whatever the pattern.
	reach := make([]bool, len(names)+1)
	reach[0] = true
	for _, part := range parts {
		next := make([]bool, len(names)+1)
		for j := range next {
			switch {
			case part == "**":
				next[j] = reach[j] || j > 0 && next[j-1]
			case j > 0 && reach[j-1]:
				// The root is the empty name: * does not stand for it.
				next[j] = matchText(part, names[j-1]) && (part == "") == (names[j-1] == "")
			}
		}
		reach = next
	}
	return reach[len(names)]
}
