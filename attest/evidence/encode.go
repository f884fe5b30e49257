package evidence

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/sealift/sealift/measure/eventlog"
)

// Bounds of what Decode takes. They are generous: a host's whole log at its
// default size fits several times over in what is likely, and nothing beyond
// them makes a reader allocate.
const (
	// MaxSize bounds encoded evidence.
	MaxSize = 512 << 20
	// MaxBoot and MaxIMA bound the two logs, in bytes before hex.
	MaxBoot = 4 << 20
	MaxIMA  = 64 << 20
	// MaxCertificates bounds each chain, MaxField every other byte field.
	MaxCertificates = 8
	MaxField        = 64 << 10

	// maxMembers bounds commas and brackets outside the log: what a parser
	// would make a value of.
	maxMembers = 4096
	// minLine is shorter than any line can be; it bounds how many there are.
	minLine = 64
	// maxSignature bounds the text after the lines.
	maxSignature = 1 << 10
)

// Seams of the encoded object. A quotation mark within a JSON string is
// escaped, so none of them can occur inside of one.
const (
	beforeLines = `,"lines":[`
	afterLines  = `]},"signature":"`
	afterAll    = `"}`
)

// head is the object without the log's lines and the signature.
type head struct {
	Version    uint32     `json:"version"`
	Purpose    string     `json:"purpose"`
	Nonces     Nonces     `json:"nonces"`
	Exporter   []byte     `json:"exporter"`
	SPKI       Keys       `json:"spki"`
	Ticket     []byte     `json:"ticket"`
	AK         AK         `json:"ak"`
	Quote      Quote      `json:"quote"`
	Properties Properties `json:"properties"`
	Boot       []byte     `json:"boot"`
	IMA        []byte     `json:"ima"`
	Log        Log        `json:"log"`
}

// headText is the encoded head up to and without the two braces that end it.
func (e *Evidence) headText() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	b, err := eventlog.Marshal(&head{e.Version, e.Purpose, e.Nonces, e.Exporter, e.SPKI, e.Ticket, e.AK, e.Quote, e.Properties, e.Boot, e.IMA, e.Log})
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return bytes.TrimSuffix(b, []byte("}}")), nil
}

// writeCovered writes what the channel key's signature covers.
func (e *Evidence) writeCovered(w io.Writer) error {
	text, err := e.headText()
	if err != nil {
		return err
	}
	parts := [][]byte{text, []byte(beforeLines)}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	for i, l := range e.Log.Lines {
		if i > 0 {
			if _, err := w.Write([]byte{','}); err != nil {
				return err
			}
		}
		if _, err := w.Write(l); err != nil {
			return err
		}
	}
	_, err = w.Write([]byte("]}"))
	return err
}

// Encode gives the evidence's one text.
func (e *Evidence) Encode() ([]byte, error) {
	size := 2*(len(e.Boot)+len(e.IMA)) + 16<<10
	for _, l := range e.Log.Lines {
		size += len(l) + 1
	}
	if size > MaxSize {
		return nil, &SizeError{size}
	}
	out := bytes.NewBuffer(make([]byte, 0, size))
	if err := e.writeCovered(out); err != nil {
		return nil, err
	}
	out.WriteString(`,"signature":"`)
	out.WriteString(hex.EncodeToString(e.Signature))
	out.WriteString(afterAll)
	return out.Bytes(), nil
}

// SizeError says that evidence is larger than a reader takes.
type SizeError struct{ Size int }

func (e *SizeError) Error() string {
	return fmt.Sprintf("evidence: %d bytes are more than %d\nhint: give the verifier a state file (--state), so that only the log's new lines are sent", e.Size, MaxSize)
}

// Decode reads encoded evidence. It takes exactly what Encode writes: decoding
// and encoding again is the identity. The lines are slices of b, which must not
// be changed afterwards; their content is for the log's replay to check.
func Decode(b []byte) (*Evidence, error) {
	if len(b) > MaxSize {
		return nil, &SizeError{len(b)}
	}
	i := bytes.Index(b, []byte(beforeLines))
	if i < 0 {
		return nil, errors.New("evidence: holds no log\nhint: evidence is what sealift attest writes")
	}
	text := b[:i]
	if n := bytes.Count(text, []byte{','}) + bytes.Count(text, []byte{'['}) + bytes.Count(text, []byte{'{'}); n > maxMembers {
		return nil, fmt.Errorf("evidence: %d members outside the log are more than %d", n, maxMembers)
	}
	if len(text) > 2*(MaxBoot+MaxIMA)+maxMembers*MaxField/16 {
		return nil, fmt.Errorf("evidence: %d bytes outside the log", len(text))
	}
	var h head
	whole := append(bytes.Clone(text), "}}"...)
	if err := eventlog.Unmarshal(whole, &h); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	e := &Evidence{h.Version, h.Purpose, h.Nonces, h.Exporter, h.SPKI, h.Ticket, h.AK, h.Quote, h.Properties, h.Boot, h.IMA, h.Log, nil}
	again, err := e.headText()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, text) {
		return nil, errors.New("evidence: is not in canonical form")
	}

	rest := b[i+len(beforeLines):]
	tail := max(0, len(rest)-maxSignature)
	j := bytes.LastIndex(rest[tail:], []byte(afterLines))
	if j < 0 {
		return nil, errors.New("evidence: does not end with a signature")
	}
	j += tail
	if e.Signature, err = signature(rest[j+len(afterLines):]); err != nil {
		return nil, err
	}
	if e.Log.Lines, err = split(rest[:j]); err != nil {
		return nil, err
	}
	return e, nil
}

// signature takes lower-case hex and the end of the object.
func signature(text []byte) ([]byte, error) {
	digits, ok := bytes.CutSuffix(text, []byte(afterAll))
	if !ok {
		return nil, errors.New("evidence: bytes after its end")
	}
	sig, err := hex.DecodeString(string(digits))
	if err != nil || hex.EncodeToString(sig) != string(digits) {
		return nil, errors.New("evidence: signature is not lower-case hex")
	}
	return sig, nil
}

// split finds where each line of the log ends. What it gives, joined by commas,
// is the text again.
func split(text []byte) ([][]byte, error) {
	var lines [][]byte
	for len(text) > 0 {
		n, err := object(text)
		if err != nil {
			return nil, fmt.Errorf("evidence: log line %d: %w", len(lines)+1, err)
		}
		if n < minLine || n > eventlog.MaxLine {
			return nil, fmt.Errorf("evidence: log line %d: of %d bytes", len(lines)+1, n)
		}
		lines = append(lines, text[:n:n])
		text = text[n:]
		if len(text) == 0 {
			break
		}
		if text[0] != ',' || len(text) == 1 {
			return nil, fmt.Errorf("evidence: log line %d: a comma and another line expected after it", len(lines))
		}
		text = text[1:]
	}
	return lines, nil
}

// object gives the length of the JSON object that text begins with.
func object(text []byte) (int, error) {
	if text[0] != '{' {
		return 0, errors.New("an object expected")
	}
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1, nil
			}
		}
	}
	return 0, errors.New("has no end")
}

// check refuses what is out of bounds, in writing and in reading.
func (e *Evidence) check() error {
	if e.Version != Version {
		return fmt.Errorf("evidence: of format version %d; this program reads %d", e.Version, Version)
	}
	if e.Purpose != Offline && e.Purpose != Channel {
		return fmt.Errorf("evidence: purpose %q is not known", e.Purpose)
	}
	if e.Log.Container != "" && e.Log.Namespace == "" {
		return errors.New("evidence: a container's view names no namespace")
	}
	if e.Log.From == 0 {
		return errors.New("evidence: log records are counted from 1")
	}
	for _, f := range []struct {
		name  string
		bytes []byte
		max   int
	}{
		{"verifier nonce", e.Nonces.Verifier, MaxField}, {"own nonce", e.Nonces.Own, MaxField}, {"exporter", e.Exporter, MaxField},
		{"own channel key", e.SPKI.Own, MaxField}, {"peer's channel key", e.SPKI.Peer, MaxField}, {"ticket", e.Ticket, MaxField},
		{"attestation key", e.AK.Public, MaxField}, {"quote message", e.Quote.Message, MaxField}, {"quote signature", e.Quote.Signature, MaxField},
		{"boot log", e.Boot, MaxBoot}, {"IMA log", e.IMA, MaxIMA},
	} {
		if len(f.bytes) > f.max {
			return fmt.Errorf("evidence: %s of %d bytes is longer than %d", f.name, len(f.bytes), f.max)
		}
	}
	for _, chain := range [][][]byte{e.AK.Certificates, e.AK.Owner} {
		if len(chain) > MaxCertificates {
			return fmt.Errorf("evidence: a chain of %d certificates is longer than %d", len(chain), MaxCertificates)
		}
		for _, c := range chain {
			if len(c) > MaxField {
				return fmt.Errorf("evidence: certificate of %d bytes is longer than %d", len(c), MaxField)
			}
		}
	}
	return nil
}
