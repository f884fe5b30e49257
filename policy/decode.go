package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder reads one YAML document strictly. yaml's own decoding into structs
// folds keys, resolves aliases and forgets lines; here every node is looked at
// once, and everything wrong is collected, not only the first thing.
type decoder struct {
	file string
	errs Errors
}

func (d *decoder) fail(n *yaml.Node, at, hint, format string, args ...any) {
	line := 0
	if n != nil {
		line = n.Line
	}
	d.errs = append(d.errs, &Error{File: d.file, Line: line, Field: at, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// yamlLine is the shape of the YAML library's own messages; it is taken apart
// for display only.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// document returns the root of the only document in data.
func (d *decoder) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.fail(nil, "", "remove the file, or write a policy; docs/policy.md begins with one", "is empty")
		return nil
	case err != nil:
		d.syntax(err)
		return nil
	}
	switch err := dec.Decode(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(err)
		return nil
	default:
		d.fail(&next, "", "one policy a file: move this document to a file of its own", "a second YAML document begins here")
		return nil
	}
	return doc.Content[0]
}

func (d *decoder) syntax(err error) {
	msg, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		msg = msg[len(m[0]):]
		if m[1] != "" {
			line, _ = strconv.Atoi(m[1]) // digits by the expression; an absurd number means no line
		}
	}
	d.errs = append(d.errs, &Error{File: d.file, Line: line, Message: "not YAML: " + msg, Hint: "check indentation and quotes near this line"})
}

// field is one key of a mapping and what reads its value.
type field struct {
	name     string
	required bool
	read     func(n *yaml.Node, at string)
}

// mapping reads n as a mapping with exactly these fields.
func (d *decoder) mapping(n *yaml.Node, at string, fields []field) bool {
	if !d.kind(n, at, yaml.MappingNode, "!!map") {
		return false
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name, ok := d.key(key, at)
		if !ok {
			continue
		}
		if line, dup := seen[name]; dup {
			d.fail(key, join(at, name), "keep one of the two", "given twice; first on line %d", line)
			continue
		}
		seen[name] = key.Line
		k := slices.Index(names, name)
		if k < 0 {
			d.fail(key, join(at, name), unknownHint(name, names), "unknown field")
			continue
		}
		fields[k].read(value, join(at, name))
	}
	for _, f := range fields {
		if _, ok := seen[f.name]; f.required && !ok {
			hint := ""
			if f.name == "match" {
				hint = "write match: {} to select every launch"
			}
			d.fail(n, join(at, f.name), hint, "is missing")
		}
	}
	return true
}

// key returns a mapping key's text; aliases, merges and non-strings are refused.
func (d *decoder) key(n *yaml.Node, at string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Anchor != "" {
		d.fail(n, at, "keys are plain words; anchors, merge keys (<<) and tags are not used here", "this key is not a string")
		return "", false
	}
	return n.Value, true
}

// kind checks that n is a plain node of the wanted kind and tag.
func (d *decoder) kind(n *yaml.Node, at string, want yaml.Kind, tag string) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fail(n, at, "write the value out", "YAML anchors and aliases are not used here")
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n, at, "remove the tag", "YAML tags are not used here")
	case n.Kind != want || n.Tag != tag:
		hint := ""
		switch {
		case n.Tag == "!!null":
			hint = "an empty value says nothing: write one, or remove the line"
		case tag == "!!str" && n.Kind == yaml.ScalarNode:
			hint = fmt.Sprintf("quote it: %q", n.Value)
		case tag == "!!seq" && n.Kind == yaml.ScalarNode:
			hint = "write a list: [" + n.Value + "]"
		}
		d.fail(n, at, hint, "wants %s, found %s", describe(tag), describe(n.Tag))
	default:
		return true
	}
	return false
}

var tagWords = map[string]string{
	"!!map": "a mapping", "!!seq": "a list", "!!str": "a string", "!!bool": "true or false",
	"!!int": "a number", "!!float": "a number", "!!null": "nothing", "!!timestamp": "a date", "!!binary": "binary data",
}

func describe(tag string) string {
	if w, ok := tagWords[tag]; ok {
		return w
	}
	return tag
}

func (d *decoder) str(n *yaml.Node, at string) (string, bool) {
	if !d.kind(n, at, yaml.ScalarNode, "!!str") {
		return "", false
	}
	if n.Value == "" {
		d.fail(n, at, "", "is empty")
		return "", false
	}
	if len(n.Value) > maxString {
		d.fail(n, at, "", "is %d bytes long, more than %d", len(n.Value), maxString)
		return "", false
	}
	return n.Value, true
}

func (d *decoder) boolean(n *yaml.Node, at string) bool {
	if !d.kind(n, at, yaml.ScalarNode, "!!bool") {
		return false
	}
	if n.Value != "true" && n.Value != "false" {
		d.fail(n, at, "", "wants true or false, found %q", n.Value)
	}
	return n.Value == "true"
}

// list calls read for each entry of a list and reports whether n was a list.
func (d *decoder) list(n *yaml.Node, at string, read func(n *yaml.Node, at string)) bool {
	if !d.kind(n, at, yaml.SequenceNode, "!!seq") {
		return false
	}
	for i, c := range n.Content {
		read(c, fmt.Sprintf("%s[%d]", at, i))
	}
	return true
}

// word reads one word of a scale.
func word[W ~string](d *decoder, n *yaml.Node, at string, scale []W, into *W) {
	words := make([]string, len(scale))
	for i, w := range scale {
		words[i] = string(w)
	}
	hint := "one of " + strings.Join(words, ", ")
	if n.Kind == yaml.ScalarNode && n.Tag == "!!bool" {
		d.fail(n, at, hint, "unknown value %q", n.Value)
		return
	}
	s, ok := d.str(n, at)
	if !ok {
		return
	}
	if !slices.Contains(scale, W(s)) {
		d.fail(n, at, hint, "unknown value %q", s)
		return
	}
	*into = W(s)
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}
