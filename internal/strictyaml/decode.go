// Package strictyaml reads YAML of which a mistake must not pass for a choice:
// policies. yaml's own decoding into structs folds keys, resolves aliases and
// forgets lines; here every node is looked at once, unknown and repeated keys
// are errors, and everything wrong is collected, not only the first thing.
package strictyaml

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

// Dialect is what differs from one kind of file to another.
type Dialect struct {
	// Key is what the files' documentation calls a key: "field".
	Key string
	// Empty and Second are the hints for a file without a document, and for one
	// with more than one.
	Empty, Second string
	// UnknownKey gives the hint for a key that is not among the known ones.
	UnknownKey func(name string, known []string) string
	// NameFound has errors name what stands in place of what is wanted.
	NameFound bool
	// MaxString bounds one string, in bytes.
	MaxString int
}

// Decoder reads one document and collects what is wrong with it.
type Decoder struct {
	Dialect
	// File is the name that errors give the document.
	File   string
	Errors Errors
}

// Read reads the value n; at is its path in the document, for errors.
type Read func(n *yaml.Node, at string)

// Field is one key of a mapping and what reads its value.
type Field struct {
	Name     string
	Required bool
	// Hint says what to do when a required field is missing.
	Hint string
	Read Read
}

// Fail adds an error at n, which may be nil.
func (d *Decoder) Fail(n *yaml.Node, at, hint, format string, args ...any) {
	line := 0
	if n != nil {
		line = n.Line
	}
	d.Errors = append(d.Errors, &Error{File: d.File, Line: line, Field: at, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// Document returns the root of the only document in data, or nil and an error
// collected.
func (d *Decoder) Document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.Fail(nil, "", d.Empty, "is empty")
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
		d.Fail(&next, "", d.Second, "a second YAML document begins here")
		return nil
	}
	return doc.Content[0]
}

// yamlLine is the shape of the YAML library's own messages; it is taken apart
// for display only.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (d *Decoder) syntax(err error) {
	msg, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		msg = msg[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	d.Errors = append(d.Errors, &Error{File: d.File, Line: line, Message: "not YAML: " + msg, Hint: "check indentation and quotes near this line"})
}

// Mapping reads n as a mapping with exactly these fields, and reports whether n
// was a mapping.
func (d *Decoder) Mapping(n *yaml.Node, at string, fields []Field) bool {
	if !d.Kind(n, at, yaml.MappingNode, "!!map") {
		return false
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name, ok := d.MapKey(key, at)
		if !ok {
			continue
		}
		if line, dup := seen[name]; dup {
			d.Fail(key, Join(at, name), "keep one of the two", "given twice; first on line %d", line)
			continue
		}
		seen[name] = key.Line
		k := slices.Index(names, name)
		if k < 0 {
			d.Fail(key, Join(at, name), d.UnknownKey(name, names), "unknown %s", d.Key)
			continue
		}
		fields[k].Read(value, Join(at, name))
	}
	for _, f := range fields {
		if _, ok := seen[f.Name]; f.Required && !ok {
			d.Fail(n, Join(at, f.Name), f.Hint, "is missing")
		}
	}
	return true
}

// MapKey returns a mapping key's text; aliases, merges and non-strings are
// refused.
func (d *Decoder) MapKey(n *yaml.Node, at string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Anchor != "" {
		d.Fail(n, at, "keys are plain words; anchors, merge keys (<<) and tags are not used here", "this key is not a string")
		return "", false
	}
	return n.Value, true
}

// Kind reports whether n is a plain node of the wanted kind and tag.
func (d *Decoder) Kind(n *yaml.Node, at string, want yaml.Kind, tag string) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.Fail(n, at, "write the value out", "YAML anchors and aliases are not used here")
	case n.Style&yaml.TaggedStyle != 0:
		d.Fail(n, at, "remove the tag", "YAML tags are not used here")
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
		message := "wants " + describe(tag)
		if d.NameFound {
			message += ", found " + describe(n.Tag)
		}
		d.Fail(n, at, hint, "%s", message)
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

// String reads a string that is not empty.
func (d *Decoder) String(n *yaml.Node, at string) (string, bool) {
	if !d.Kind(n, at, yaml.ScalarNode, "!!str") {
		return "", false
	}
	if n.Value == "" {
		d.Fail(n, at, "", "is empty")
		return "", false
	}
	if len(n.Value) > d.MaxString {
		d.Fail(n, at, "", "is %d bytes long, more than %d", len(n.Value), d.MaxString)
		return "", false
	}
	return n.Value, true
}

// Bool reads true or false, in these spellings only.
func (d *Decoder) Bool(n *yaml.Node, at string) bool {
	if !d.Kind(n, at, yaml.ScalarNode, "!!bool") {
		return false
	}
	if n.Value != "true" && n.Value != "false" {
		d.Fail(n, at, "", "wants true or false, found %q", n.Value)
	}
	return n.Value == "true"
}

// List calls read for each entry of a list and reports whether n was a list.
func (d *Decoder) List(n *yaml.Node, at string, read Read) bool {
	if !d.Kind(n, at, yaml.SequenceNode, "!!seq") {
		return false
	}
	for i, c := range n.Content {
		read(c, fmt.Sprintf("%s[%d]", at, i))
	}
	return true
}

// Word reads one word of a scale.
func Word[W ~string](d *Decoder, n *yaml.Node, at string, scale []W, into *W) {
	words := make([]string, len(scale))
	for i, w := range scale {
		words[i] = string(w)
	}
	hint := "one of " + strings.Join(words, ", ")
	// Without quotes true is not a string; it is still a word that is not known.
	if n.Kind == yaml.ScalarNode && n.Tag == "!!bool" {
		d.Fail(n, at, hint, "unknown value %q", n.Value)
		return
	}
	s, ok := d.String(n, at)
	if !ok {
		return
	}
	if !slices.Contains(scale, W(s)) {
		d.Fail(n, at, hint, "unknown value %q", s)
		return
	}
	*into = W(s)
}

// Join is the path of a mapping's field.
func Join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}
