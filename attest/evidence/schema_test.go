package evidence_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// schema is as much of JSON Schema as docs/evidence.schema.json uses.
type schema struct {
	Type          string             `json:"type"`
	Const         any                `json:"const"`
	Enum          []any              `json:"enum"`
	Pattern       string             `json:"pattern"`
	Minimum       *float64           `json:"minimum"`
	MaxLength     *int               `json:"maxLength"`
	MaxItems      *int               `json:"maxItems"`
	MinProperties int                `json:"minProperties"`
	MaxProperties *int               `json:"maxProperties"`
	Additional    *bool              `json:"additionalProperties"`
	Required      []string           `json:"required"`
	Properties    map[string]*schema `json:"properties"`
	PropertyNames *schema            `json:"propertyNames"`
	Items         *schema            `json:"items"`
	Ref           string             `json:"$ref"`
	Defs          map[string]*schema `json:"$defs"`
	Schema        string             `json:"$schema"`
	ID            string             `json:"$id"`
	Title         string             `json:"title"`
	Description   string             `json:"description"`
}

// check says what of v the schema does not allow.
func (s *schema) check(root *schema, at string, v any) error {
	if s.Ref != "" {
		if err := root.Defs[strings.TrimPrefix(s.Ref, "#/$defs/")].check(root, at, v); err != nil {
			return err
		}
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...))
	}
	if s.Const != nil && v != s.Const {
		return wrong("is %v, not %v", v, s.Const)
	}
	if s.Enum != nil && !slices.Contains(s.Enum, v) {
		return wrong("is %v", v)
	}
	switch x := v.(type) {
	case string:
		if s.Type != "" && s.Type != "string" || s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(x) || s.MaxLength != nil && len(x) > *s.MaxLength {
			return wrong("is the string %.40q", x)
		}
	case float64:
		if s.Type != "" && s.Type != "integer" || x != math.Trunc(x) || s.Minimum != nil && x < *s.Minimum {
			return wrong("is the number %v", x)
		}
	case []any:
		if s.Type != "" && s.Type != "array" || s.MaxItems != nil && len(x) > *s.MaxItems {
			return wrong("is a list of %d", len(x))
		}
		for i, y := range x {
			if s.Items == nil {
				break
			}
			if err := s.Items.check(root, fmt.Sprintf("%s[%d]", at, i), y); err != nil {
				return err
			}
		}
	case map[string]any:
		if s.Type != "" && s.Type != "object" || len(x) < s.MinProperties || s.MaxProperties != nil && len(x) > *s.MaxProperties {
			return wrong("is an object of %d", len(x))
		}
		for _, r := range s.Required {
			if _, ok := x[r]; !ok {
				return wrong("lacks %s", r)
			}
		}
		for k, y := range x {
			p, ok := s.Properties[k]
			switch {
			case ok:
				if err := p.check(root, at+"."+k, y); err != nil {
					return err
				}
			case s.Additional != nil && !*s.Additional:
				return wrong("has %s", k)
			case s.PropertyNames != nil:
				if err := s.PropertyNames.check(root, at, k); err != nil {
					return err
				}
			}
		}
	default:
		return wrong("is %v", v)
	}
	return nil
}

// The schema takes what Encode writes and refuses what Decode refuses.
func TestSchema(t *testing.T) {
	b, err := os.ReadFile("../../docs/evidence.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // a keyword that check does not know
	if err := d.Decode(&s); err != nil {
		t.Fatal(err)
	}
	good := string(encoded(t, made(t, 3)))
	check := func(text string) error {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return err
		}
		return s.check(&s, "evidence", v)
	}
	if err := check(good); err != nil {
		t.Error(err)
	}
	for _, key := range s.Required {
		if err := check(strings.Replace(good, `"`+key+`":`, `"x`+key+`":`, 1)); err == nil {
			t.Errorf("without %s: accepted", key)
		}
	}
	for _, change := range [][2]string{
		{`"version":1`, `"version":2`}, {`"offline"`, `"x"`}, {`"from":1`, `"from":0`}, {`"boot":"05"`, `"boot":"0"`}, {`"boot":"05"`, `"boot":"AA"`},
		{`"boot":"05"`, `"boot":null`}, {`"lines":[`, `"lines":[{},`}, {`"lines":[`, `"lines":[{"other":1},`}, {`"own":`, `"more":"","own":`},
		{`"certificates":[`, `"certificates":[` + strings.Repeat(`"",`, 9)},
	} {
		text := strings.Replace(good, change[0], change[1], 1)
		if text == good || check(text) == nil {
			t.Errorf("%s for %s: accepted", change[1], change[0])
		}
	}
	// The keys of the schema are those of the format, in its order.
	at := 0
	for _, key := range s.Required {
		i := strings.Index(good[at:], `"`+key+`":`)
		if i < 0 {
			t.Fatalf("%s is not there, or out of order", key)
		}
		at += i
	}
}
