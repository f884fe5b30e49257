package eventlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// value is a parsed JSON value; exactly one form is set, by kind.
type value struct {
	kind byte // one of { [ " 0 t f n
	text string
	list []value
	keys []string
	raw  []byte
}

// member returns the value of an object's key.
func (v *value) member(key string) (*value, bool) {
	for i, k := range v.keys {
		if k == key {
			return &v.list[i], true
		}
	}
	return nil, false
}

var errCanonical = errors.New("is not in canonical form")

// parse reads one canonical JSON text: no spaces, integers only, one spelling
// of every string, no key twice in an object, none differing from another only
// in letter case (encoding/json would take one for the other).
func parse(b []byte) (*value, error) {
	p := &parser{b: b}
	v, err := p.value(0)
	if err == nil && p.i != len(b) {
		err = errors.New("bytes after the value")
	}
	if err != nil {
		return nil, fmt.Errorf("JSON at byte %d: %w", p.i, err)
	}
	return v, nil
}

type parser struct {
	b []byte
	i int
}

func (p *parser) peek() byte {
	if p.i < len(p.b) {
		return p.b[p.i]
	}
	return 0
}

func (p *parser) take(s string) error {
	if !bytes.HasPrefix(p.b[p.i:], []byte(s)) {
		return fmt.Errorf("%q expected", s)
	}
	p.i += len(s)
	return nil
}

func (p *parser) value(depth int) (*value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("value nests deeper than %d", maxDepth)
	}
	start := p.i
	v := &value{kind: p.peek()}
	var err error
	switch c := v.kind; {
	case c == '{':
		err = p.object(v, depth)
	case c == '[':
		err = p.array(v, depth)
	case c == '"':
		v.text, err = p.string()
	case c == 't':
		err = p.take("true")
	case c == 'f':
		err = p.take("false")
	case c == 'n':
		err = p.take("null")
	case c == '-' || c >= '0' && c <= '9':
		v.kind = '0'
		v.text, err = p.integer()
	default:
		err = errors.New("a value expected")
	}
	v.raw = p.b[start:p.i]
	return v, err
}

func (p *parser) object(v *value, depth int) error {
	p.i++
	var folded map[string]bool
	for p.peek() != '}' {
		if len(v.keys) > 0 {
			if err := p.take(","); err != nil {
				return err
			}
		}
		key, err := p.string()
		if err != nil {
			return err
		}
		// Keys are Sealift's own names, never a user's; ASCII alone leaves no
		// second way (K, the Kelvin sign) for two keys to look alike.
		if strings.ContainsFunc(key, func(r rune) bool { return r <= 0x20 || r >= 0x7f }) {
			return fmt.Errorf("key %q is not plain ASCII", key)
		}
		if folded, err = unlike(v.keys, folded, key); err != nil {
			return err
		}
		if err := p.take(":"); err != nil {
			return err
		}
		x, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		v.keys = append(v.keys, key)
		v.list = append(v.list, *x)
	}
	p.i++
	return nil
}

// unlike checks that no key differs from another in letter case only. Objects
// with few keys are compared key by key; folded is for those with many.
func unlike(keys []string, folded map[string]bool, key string) (map[string]bool, error) {
	const few = 12
	twice := false
	switch n := len(keys); {
	case n < few:
		twice = slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(k, key) })
	case n == few:
		folded = map[string]bool{}
		for _, k := range keys {
			folded[strings.ToLower(k)] = true
		}
		fallthrough
	default:
		f := strings.ToLower(key)
		twice = folded[f]
		folded[f] = true
	}
	if twice {
		return nil, fmt.Errorf("key %q is there twice, or in two letter cases", key)
	}
	return folded, nil
}

func (p *parser) array(v *value, depth int) error {
	p.i++
	for p.peek() != ']' {
		if len(v.list) > 0 {
			if err := p.take(","); err != nil {
				return err
			}
		}
		x, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		v.list = append(v.list, *x)
	}
	p.i++
	return nil
}

// integer takes -?(0|[1-9][0-9]*), without -0 and of at most 20 characters:
// what the 64-bit integers of either sign need.
func (p *parser) integer() (string, error) {
	start := p.i
	if p.peek() == '-' {
		p.i++
	}
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.i++
	}
	s := string(p.b[start:p.i])
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || len(s) > 20 || (digits[0] == '0' && s != "0") {
		return "", fmt.Errorf("number %q %w", s, errCanonical)
	}
	return s, nil
}

// string takes a string as appendString writes it and returns the bytes meant.
func (p *parser) string() (string, error) {
	if err := p.take(`"`); err != nil {
		return "", err
	}
	start := p.i
	for p.i < len(p.b) && p.b[p.i] >= 0x20 && p.b[p.i] < 0x7f && p.b[p.i] != '"' && p.b[p.i] != '\\' {
		p.i++
	}
	if p.peek() == '"' {
		// Plain ASCII has one spelling.
		p.i++
		return string(p.b[start : p.i-1]), nil
	}
	text := append([]byte(nil), p.b[start:p.i]...)
	for {
		if p.i >= len(p.b) {
			return "", errors.New("string without an end")
		}
		c := p.b[p.i]
		switch {
		case c == '"':
			p.i++
			return p.finish(start, text)
		case c < 0x20 || c == 0x7f:
			return "", errors.New("control character in a string")
		case c == '\\':
			if p.i+1 >= len(p.b) {
				return "", errors.New("string without an end")
			}
			switch e := p.b[p.i+1]; e {
			case '"', '\\':
				text = append(text, e)
				p.i += 2
			case 'u':
				if p.i+6 > len(p.b) {
					return "", errors.New("string without an end")
				}
				x, err := hex.DecodeString(string(p.b[p.i+2 : p.i+6]))
				if err != nil || x[0] != 0 {
					return "", fmt.Errorf("escape %q %w", p.b[p.i:p.i+6], errCanonical)
				}
				text = append(text, x[1])
				p.i += 6
			default:
				return "", fmt.Errorf("escape %q %w", p.b[p.i:p.i+2], errCanonical)
			}
		default:
			text = append(text, c)
			p.i++
		}
	}
}

func (p *parser) finish(start int, text []byte) (string, error) {
	if !utf8.Valid(text) {
		return "", errors.New("string is not UTF-8")
	}
	s, err := unescape(string(text))
	if err != nil {
		return "", err
	}
	// One spelling only: what was read must be what would be written.
	if again := appendString(nil, s); !bytes.Equal(again[1:], p.b[start:p.i]) {
		return "", fmt.Errorf("string %q %w", text, errCanonical)
	}
	return s, nil
}
