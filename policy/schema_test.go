package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type schema struct {
	Properties map[string]schema `json:"properties"`
	Items      *schema           `json:"items"`
	Ref        string            `json:"$ref"`
	Enum       []string          `json:"enum"`
	Pattern    string            `json:"pattern"`
	Required   []string          `json:"required"`
	Defs       map[string]schema `json:"$defs"`
}

// The schema has the very fields that Parse knows, at every place: what Parse
// knows it says in the hint about a field it does not.
func TestSchemaHasTheParsersFields(t *testing.T) {
	var root schema
	if err := json.Unmarshal(Schema, &root); err != nil {
		t.Fatal(err)
	}
	at := func(path ...string) schema {
		s := root
		for _, p := range path {
			s = s.Properties[p]
			for s.Items != nil || s.Ref != "" {
				if s.Items != nil {
					s = *s.Items
				} else {
					s = root.Defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
				}
			}
		}
		return s
	}
	const unknown = "{zzzzzzzzzzzz: 1}"
	for where, c := range map[string]struct {
		schema schema
		text   string
	}{
		"":         {at(), unknown},
		"metadata": {at("metadata"), "{metadata: " + unknown + "}"},
		"spec":     {at("spec"), "{spec: " + unknown + "}"},
		"match":    {at("spec", "match"), "{spec: {match: " + unknown + "}}"},
		"image":    {at("spec", "match", "images"), "{spec: {match: {images: [" + unknown + "]}}}"},
		"images":   {at("spec", "images"), "{spec: {images: " + unknown + "}}"},
		"mount":    {at("spec", "mounts", "allow"), "{spec: {mounts: {allow: [" + unknown + "]}}}"},
		"hook":     {at("spec", "hooks", "allow"), "{spec: {hooks: {allow: [" + unknown + "]}}}"},
	} {
		_, err := Parse("x", []byte(c.text))
		i := slices.IndexFunc(AsErrors(err), func(e *Error) bool { return e.Message == "unknown field" })
		if i < 0 {
			t.Fatalf("%s: %v", where, err)
		}
		known := strings.Split(strings.TrimPrefix(AsErrors(err)[i].Hint, "known here: "), ", ")
		slices.Sort(known)
		if got := slices.Sorted(maps.Keys(c.schema.Properties)); !slices.Equal(got, known) {
			t.Errorf("%s: the schema has %v, the parser %v", where, got, known)
		}
	}
	for field, words := range map[string]string{
		"content": fmt.Sprint(modes), "level": fmt.Sprint(levels), "minimumBinding": fmt.Sprint(bindings),
	} {
		if got := fmt.Sprint(at("spec", field).Enum); got != words {
			t.Errorf("%s: the schema has %v, the parser %v", field, got, words)
		}
	}
	for path, shape := range map[string]*regexp.Regexp{"digest": digestShape, "signedBy": signedByShape} {
		if got := at("spec", "match", "images", path).Pattern; got != shape.String() {
			t.Errorf("%s: the schema has %s, the parser %s", path, got, shape)
		}
	}
	if got := at("spec", "hooks", "allow", "sha256").Pattern; got != sha256Shape.String() {
		t.Errorf("sha256: the schema has %s, the parser %s", got, sha256Shape)
	}
	if got := at("metadata", "name").Pattern; got != nameShape.String() {
		t.Errorf("name: the schema has %s, the parser %s", got, nameShape)
	}
}
