package runtime

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// separator joins keys to a path. No key may hold it, so that a path names one
// place only.
const separator = "\x00"

func field(keys ...string) string { return strings.Join(keys, separator) }

// A span is where one value stands in a JSON text.
type span struct{ from, to int }

// maxDepth bounds nesting; a specification has about eight levels.
const maxDepth = 64

// openMaps are the objects of a specification whose keys are data, not names of
// fields: keys that differ by case only are two keys there.
var openMaps = []string{"annotations", "sysctl", "unified", "netdevices"}

// scanJSON walks a JSON object and returns where the values at the wanted paths
// stand (field("linux", "cgroupsPath"); only through objects). It refuses what two readers
// could understand differently: a key given twice, or twice but for its case,
// as Go's decoder (and so runc) takes the last of them and matches fields
// without regard to case.
//
// The rule holds for crun and youki as well, whose readers match exactly.
func scanJSON(text []byte, wanted ...string) (map[string]span, error) {
	s := &scanner{dec: json.NewDecoder(bytes.NewReader(text)), text: text, wanted: wanted, found: map[string]span{}}
	s.dec.UseNumber()
	tok, err := s.dec.Token()
	if err != nil {
		return nil, s.fail("", err.Error())
	}
	if tok != json.Delim('{') {
		return nil, s.fail("", "is not an object")
	}
	if err := s.object("", false, 1); err != nil {
		return nil, err
	}
	if rest := bytes.TrimSpace(text[s.dec.InputOffset():]); len(rest) > 0 {
		return nil, s.fail("", "has text after its object")
	}
	return s.found, nil
}

type scanner struct {
	dec    *json.Decoder
	text   []byte
	wanted []string
	found  map[string]span
}

func (s *scanner) fail(path, what string) error {
	if path == "" {
		path = "config.json"
	} else {
		path = "config.json: " + strings.ReplaceAll(path, separator, ".")
	}
	return fmt.Errorf("%s %s: %w", path, what, errdefs.ErrInvalidArgument)
}

func (s *scanner) object(path string, open bool, depth int) error {
	if depth > maxDepth {
		return s.fail(path, "is nested too deeply")
	}
	seen := map[string]struct{}{}
	for s.dec.More() {
		tok, err := s.dec.Token()
		if err != nil {
			return s.fail(path, err.Error())
		}
		key, ok := tok.(string)
		if !ok {
			return s.fail(path, "has a key that is no string")
		}
		if strings.Contains(key, separator) {
			return s.fail(path, "has a NUL in a key")
		}
		folded := key
		if !open {
			folded = foldKey(key)
		}
		if _, twice := seen[folded]; twice {
			return s.fail(path, fmt.Sprintf("has the key %q twice", key))
		}
		seen[folded] = struct{}{}
		child := key
		if path != "" {
			child = field(path, key)
		}
		if err := s.value(child, foldKey(key), depth); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	if err != nil {
		return s.fail(path, err.Error())
	}
	return nil
}

func (s *scanner) value(path, key string, depth int) error {
	before := int(s.dec.InputOffset())
	tok, err := s.dec.Token()
	if err != nil {
		return s.fail(path, err.Error())
	}
	// The value begins after the colon and blanks that follow its key.
	from := before + len(s.text[before:]) - len(bytes.TrimLeft(s.text[before:], ": \t\r\n"))
	switch tok {
	case json.Delim('{'):
		err = s.object(path, slices.Contains(openMaps, key), depth+1)
	case json.Delim('['):
		err = s.array(path, depth+1)
	}
	if err != nil {
		return err
	}
	for _, w := range s.wanted {
		if strings.EqualFold(w, path) {
			s.found[w] = span{from, int(s.dec.InputOffset())}
		}
	}
	return nil
}

func (s *scanner) array(path string, depth int) error {
	if depth > maxDepth {
		return s.fail(path, "is nested too deeply")
	}
	for s.dec.More() {
		// An element has no path of its own: nothing wanted lies in an array.
		tok, err := s.dec.Token()
		if err != nil {
			return s.fail(path, err.Error())
		}
		switch tok {
		case json.Delim('{'):
			err = s.object(path+"[]", false, depth+1)
		case json.Delim('['):
			err = s.array(path+"[]", depth+1)
		}
		if err != nil {
			return err
		}
	}
	if _, err := s.dec.Token(); err != nil {
		return s.fail(path, err.Error())
	}
	return nil
}

// foldKey maps keys that Go's decoder takes for the same field to one string.
// It folds by simple Unicode folding, so that U+017F and U+212A meet s and k.
func foldKey(key string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '\u017f':
			return 's'
		case '\u212a':
			return 'k'
		}
		return r
	}, strings.ToLower(key))
}

// An edit puts a value, as JSON, in the place of another.
type edit struct {
	at    span
	value []byte
}

// splice applies edits that do not overlap and leaves every other byte as it is.
func splice(text []byte, edits []edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return a.at.from - b.at.from })
	var out bytes.Buffer
	last := 0
	for _, e := range edits {
		out.Write(text[last:e.at.from])
		out.Write(e.value)
		last = e.at.to
	}
	out.Write(text[last:])
	return out.Bytes()
}
