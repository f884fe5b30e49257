package reference

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// knownKeys are the keys of the envelope and the payload.
var knownKeys = map[string]bool{
	"payloadType": true, "payload": true, "signatures": true, "keyid": true, "sig": true,
	"name": true, "version": true, "expires": true, "images": true,
	"manifest": true, "platform": true, "layers": true, "diffID": true, "digest": true,
}

// checkKeys refuses JSON in which an object has a key twice or one that is not
// spelled exactly as ours. encoding/json takes the last of two keys and folds
// their case, so it must not be the first to look.
func checkKeys(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		var m *MalformedError
		if errors.As(err, &m) {
			return err
		}
		return &MalformedError{Reason: "not JSON: " + err.Error()}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &MalformedError{Reason: "data after the end of the JSON"}
	}
	return nil
}

const maxDepth = 8

func checkValue(dec *json.Decoder, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return &MalformedError{Reason: "nested too deeply"}
	}
	seen := map[string]bool{}
	for dec.More() {
		if open == '{' {
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			key, ok := tok.(string)
			switch {
			case !ok:
				return &MalformedError{Reason: fmt.Sprintf("a key is %v and not a string", tok)}
			case !knownKeys[key]:
				return &MalformedError{Reason: fmt.Sprintf("unknown key %q", key)}
			case seen[key]:
				return &MalformedError{Reason: fmt.Sprintf("key %q is given twice", key)}
			}
			seen[key] = true
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}
