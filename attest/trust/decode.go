package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealift/sealift/policy"
)

// decoder reads the policy's YAML strictly, and collects everything wrong.
type decoder struct {
	file string
	open func(string) ([]byte, error)
	errs policy.Errors
}

type field struct {
	name string
	read func(n *yaml.Node, at string)
}

func (d *decoder) fail(n *yaml.Node, at, hint, format string, args ...any) {
	line := 0
	if n != nil {
		line = n.Line
	}
	d.errs = append(d.errs, &policy.Error{File: d.file, Line: line, Field: at, Message: fmt.Sprintf(format, args...), Hint: hint})
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (d *decoder) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := dec.Decode(&doc)
	if err == nil {
		if err = dec.Decode(&next); err == nil {
			d.fail(&next, "", "one policy a file", "a second YAML document begins here")
			return nil
		}
		if errors.Is(err, io.EOF) {
			return doc.Content[0]
		}
	}
	if errors.Is(err, io.EOF) {
		d.fail(nil, "", "sealift verify --print-trust shows one to begin with", "is empty")
		return nil
	}
	msg, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		msg = msg[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	d.errs = append(d.errs, &policy.Error{File: d.file, Line: line, Message: "not YAML: " + msg, Hint: "check indentation and quotes near this line"})
	return nil
}

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
		if key.Kind != yaml.ScalarNode || key.Tag != "!!str" || key.Anchor != "" {
			d.fail(key, at, "keys are plain words; anchors, merge keys (<<) and tags are not used here", "this key is not a string")
			continue
		}
		path := key.Value
		if at != "" {
			path = at + "." + key.Value
		}
		if line, dup := seen[key.Value]; dup {
			d.fail(key, path, "keep one of the two", "given twice; first on line %d", line)
			continue
		}
		seen[key.Value] = key.Line
		k := slices.Index(names, key.Value)
		if k < 0 {
			d.fail(key, path, policy.DidYouMean(key.Value, names), "unknown key")
			continue
		}
		fields[k].read(value, path)
	}
	return true
}

func (d *decoder) kind(n *yaml.Node, at string, want yaml.Kind, tag string) bool {
	words := map[string]string{"!!map": "a mapping", "!!seq": "a list", "!!str": "a string"}
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
		case tag == "!!seq" && n.Kind == yaml.ScalarNode:
			hint = "write a list: [" + n.Value + "]"
		case tag == "!!str" && n.Kind == yaml.ScalarNode:
			hint = fmt.Sprintf("quote it: %q", n.Value)
		}
		d.fail(n, at, hint, "wants %s", words[tag])
	default:
		return true
	}
	return false
}

const maxString = 64 << 10

func (d *decoder) str(n *yaml.Node, at string) (string, bool) {
	if !d.kind(n, at, yaml.ScalarNode, "!!str") {
		return "", false
	}
	if n.Value == "" || len(n.Value) > maxString {
		d.fail(n, at, "", "is empty, or longer than %d bytes", maxString)
		return "", false
	}
	return n.Value, true
}

func (d *decoder) list(n *yaml.Node, at string, read func(n *yaml.Node, at string)) {
	if !d.kind(n, at, yaml.SequenceNode, "!!seq") {
		return
	}
	for i, c := range n.Content {
		read(c, fmt.Sprintf("%s[%d]", at, i))
	}
}

func (d *decoder) text(into *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if s, ok := d.str(n, at); ok {
			*into = s
		}
	}
}

func (d *decoder) texts(into *[]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		*into = []string{}
		d.list(n, at, func(n *yaml.Node, at string) {
			if s, ok := d.str(n, at); ok {
				*into = append(*into, s)
			}
		})
	}
}

func (d *decoder) word(into *string, of []string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		hint := "one of " + strings.Join(of, ", ")
		s := n.Value
		// YAML 1.1 reads on and off as truths.
		if n.Tag != "!!bool" {
			var ok bool
			if s, ok = d.str(n, at); !ok {
				return
			}
		}
		if !slices.Contains(of, s) {
			d.fail(n, at, hint, "unknown value %q", s)
			return
		}
		*into = s
	}
}

func (d *decoder) words(into *[]string, of []string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		*into = []string{}
		d.list(n, at, func(n *yaml.Node, at string) {
			var s string
			d.word(&s, of)(n, at)
			if s != "" && !slices.Contains(*into, s) {
				*into = append(*into, s)
			}
		})
	}
}

func (d *decoder) answer(into *Answer) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		var s string
		d.word(&s, []string{string(Accept), string(Reject)})(n, at)
		*into = Answer(s)
	}
}

func (d *decoder) duration(into *time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		s, ok := d.str(n, at)
		if !ok {
			return
		}
		v, err := time.ParseDuration(s)
		if err != nil || v < 0 {
			d.fail(n, at, "a time span, such as 30s, 10m or 24h", "%q is not a time span", s)
			return
		}
		*into = v
	}
}
