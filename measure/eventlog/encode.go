package eventlog

import (
	"bytes"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Raw is canonical JSON, kept byte for byte.
type Raw []byte

// maxDepth bounds how deep values nest, in writing and in reading.
const maxDepth = 32

var errFloat = errors.New("a fraction has no canonical form")

// Marshal gives the one canonical JSON text of v (docs/event-log.md, section
// "Lines"). It differs from encoding/json where that loses something:
//   - strings are bytes: a backslash is written \\ and a byte that is not part
//     of valid UTF-8 \xNN, before JSON's own escaping;
//   - a map is a list of {"name":…,"value":…} sorted by name, so that no key of
//     an object is ever a user's;
//   - []byte and byte arrays are hex; fractions are refused.
//
// Field names, omitempty and "-" are taken from json tags.
func Marshal(v any) ([]byte, error) {
	return encoder{}.encode(nil, reflect.ValueOf(v), 0)
}

// encoder writes values. With known set, Raw values came out of parse and are
// not looked at again.
type encoder struct{ known bool }

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

func (e encoder) encode(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("value nests deeper than %d", maxDepth)
	}
	if !v.IsValid() {
		return append(b, "null"...), nil
	}
	if v.Type() == reflect.TypeFor[Raw]() {
		raw := v.Bytes()
		if raw == nil {
			return append(b, "null"...), nil
		}
		if !e.known {
			if _, err := parse(raw); err != nil {
				return nil, err
			}
		}
		return append(b, raw...), nil
	}
	if v.Kind() != reflect.Pointer && v.Type().Implements(textMarshaler) {
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			return nil, err
		}
		return appendString(b, string(text)), nil
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case reflect.Float32, reflect.Float64:
		return nil, errFloat
	case reflect.String:
		return appendString(b, v.String()), nil
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		return e.encode(b, v.Elem(), depth)
	case reflect.Slice, reflect.Array:
		return e.encodeList(b, v, depth)
	case reflect.Map:
		return e.encodeMap(b, v, depth)
	case reflect.Struct:
		return e.encodeStruct(b, v, depth)
	}
	return nil, fmt.Errorf("a value of type %s has no canonical form", v.Type())
}

func (e encoder) encodeList(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		raw := make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf(raw), v)
		return appendString(b, hex.EncodeToString(raw)), nil
	}
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = e.encode(b, v.Index(i), depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func (e encoder) encodeMap(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.Type().Key().Kind() != reflect.String {
		return nil, fmt.Errorf("a map keyed by %s has no canonical form", v.Type().Key())
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	b = append(b, '[')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendString(b, k.String())
		b = append(b, `,"value":`...)
		var err error
		if b, err = e.encode(b, v.MapIndex(k), depth+2); err != nil {
			return nil, err
		}
		b = append(b, '}')
	}
	return append(b, ']'), nil
}

func (e encoder) encodeStruct(b []byte, v reflect.Value, depth int) ([]byte, error) {
	b = append(b, '{')
	first := true
	for _, f := range fieldsOf(v.Type()) {
		x := v.FieldByIndex(f.index)
		if f.omitEmpty && isEmpty(x) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, f.name)
		b = append(b, ':')
		var err error
		if b, err = e.encode(b, x, depth+1); err != nil {
			return nil, fmt.Errorf("field %s: %w", f.name, err)
		}
	}
	return append(b, '}'), nil
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String:
		return v.Len() == 0
	}
	return v.IsZero()
}

type field struct {
	name      string
	index     []int
	omitEmpty bool
}

// fields caches fieldsOf by type.
var fields sync.Map

func fieldsOf(t reflect.Type) []field {
	if f, ok := fields.Load(t); ok {
		return f.([]field)
	}
	f := listFields(t)
	fields.Store(t, f)
	return f
}

// listFields lists what json tags name, embedded structs flattened.
func listFields(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if tag == "-" || (!f.IsExported() && !f.Anonymous) {
			continue
		}
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct {
			for _, sub := range listFields(f.Type) {
				sub.index = append([]int{i}, sub.index...)
				out = append(out, sub)
			}
			continue
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		omit := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		out = append(out, field{name, []int{i}, omit})
	}
	return out
}

const hexDigits = "0123456789abcdef"

// appendString writes a string of any bytes as JSON, losing none.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"':
				b = append(b, '\\', '"')
			case c == '\\':
				b = append(b, `\\\\`...)
			case c < 0x20 || c == 0x7f:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(b, '\\', '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		} else {
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return append(b, '"')
}

// unescape undoes the first step of appendString: text, as any JSON reader
// gives it, to the bytes that were meant.
func unescape(text string) (string, error) {
	if !strings.Contains(text, `\`) {
		return text, nil
	}
	var out bytes.Buffer
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			out.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		switch {
		case strings.HasPrefix(rest, `\`):
			out.WriteByte('\\')
			i++
		case len(rest) >= 3 && rest[0] == 'x':
			x, err := hex.DecodeString(rest[1:3])
			if err != nil {
				return "", fmt.Errorf("escape %q: %w", text[i:i+4], err)
			}
			out.Write(x)
			i += 3
		default:
			return "", fmt.Errorf("backslash in %q begins no escape", text)
		}
	}
	return out.String(), nil
}
