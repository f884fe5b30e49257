package eventlog

import (
	"encoding"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
)

// Unmarshal reads canonical JSON as Marshal writes it into the value v points
// to. Keys must match a field's name exactly; an unknown key is an error.
func Unmarshal(b []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return fmt.Errorf("a pointer is needed to decode into, not %T", v)
	}
	x, err := parse(b)
	if err != nil {
		return err
	}
	return decode(x, p.Elem())
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func decode(x *value, v reflect.Value) error {
	if v.Type() == reflect.TypeFor[Raw]() {
		v.SetBytes(append([]byte(nil), x.raw...))
		return nil
	}
	if v.Kind() != reflect.Pointer && v.Addr().Type().Implements(textUnmarshaler) {
		if x.kind != '"' {
			return mismatch(x, v)
		}
		return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(x.text))
	}
	switch v.Kind() {
	case reflect.Bool:
		if x.kind != 't' && x.kind != 'f' {
			return mismatch(x, v)
		}
		v.SetBool(x.kind == 't')
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(x.text, 10, v.Type().Bits())
		if x.kind != '0' || err != nil {
			return mismatch(x, v)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(x.text, 10, v.Type().Bits())
		if x.kind != '0' || err != nil {
			return mismatch(x, v)
		}
		v.SetUint(n)
	case reflect.String:
		if x.kind != '"' {
			return mismatch(x, v)
		}
		v.SetString(x.text)
	case reflect.Pointer:
		if x.kind == 'n' {
			v.SetZero()
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return decode(x, v.Elem())
	case reflect.Slice, reflect.Array:
		return decodeList(x, v)
	case reflect.Map:
		return decodeMap(x, v)
	case reflect.Struct:
		return decodeStruct(x, v)
	default:
		return mismatch(x, v)
	}
	return nil
}

func mismatch(x *value, v reflect.Value) error {
	return fmt.Errorf("%.40q is not a %s", x.raw, v.Type())
}

func decodeList(x *value, v reflect.Value) error {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		raw, err := hex.DecodeString(x.text)
		if x.kind != '"' || err != nil {
			return mismatch(x, v)
		}
		if v.Kind() == reflect.Slice {
			v.SetBytes(raw)
			return nil
		}
		if len(raw) != v.Len() {
			return mismatch(x, v)
		}
		reflect.Copy(v, reflect.ValueOf(raw))
		return nil
	}
	if x.kind != '[' || (v.Kind() == reflect.Array && v.Len() != len(x.list)) {
		return mismatch(x, v)
	}
	if v.Kind() == reflect.Slice {
		v.Set(reflect.MakeSlice(v.Type(), len(x.list), len(x.list)))
	}
	for i := range x.list {
		if err := decode(&x.list[i], v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

func decodeMap(x *value, v reflect.Value) error {
	if x.kind != '[' || v.Type().Key().Kind() != reflect.String {
		return mismatch(x, v)
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(x.list)))
	last := ""
	for i := range x.list {
		e := &x.list[i]
		name, ok1 := e.member("name")
		val, ok2 := e.member("value")
		if !ok1 || !ok2 || len(e.keys) != 2 || name.kind != '"' || (i > 0 && name.text <= last) {
			return mismatch(x, v)
		}
		last = name.text
		k := reflect.New(v.Type().Key()).Elem()
		k.SetString(name.text)
		out := reflect.New(v.Type().Elem()).Elem()
		if err := decode(val, out); err != nil {
			return fmt.Errorf("%q: %w", name.text, err)
		}
		v.SetMapIndex(k, out)
	}
	return nil
}

func decodeStruct(x *value, v reflect.Value) error {
	if x.kind != '{' {
		return mismatch(x, v)
	}
	fields := fieldsOf(v.Type())
next:
	for i, key := range x.keys {
		for _, f := range fields {
			if f.name == key {
				if err := decode(&x.list[i], v.FieldByIndex(f.index)); err != nil {
					return fmt.Errorf("field %s: %w", key, err)
				}
				continue next
			}
		}
		return fmt.Errorf("field %q is not known", key)
	}
	return nil
}
