package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/sealift/sealift/measure/tpm"
)

// MaxLine bounds one stored line, its newline not counted.
const MaxLine = 4 << 20

// Line is one stored line: exactly one of its fields is set.
type Line struct {
	Item   *Item   `json:"item,omitempty"`
	Closed *Closed `json:"closed,omitempty"`
	Batch  *Batch  `json:"batch,omitempty"`
}

// Item is one event with all that is needed to compute its digest again.
type Item struct {
	Epoch Hash   `json:"epoch"`
	Seq   uint64 `json:"seq"`
	// Blind opens the pseudonym of the record's namespace.
	Blind Hash `json:"blind"`
	Salt  Hash `json:"salt"`
	// Salts open the record's salted values, in the same order.
	Salts []Salt `json:"salts"`
	// Record is the exact text the commitment is over.
	Record Raw `json:"record"`

	// opened is the record once it was decoded.
	opened *Record
}

// Salt is the salt of one salted value.
type Salt struct {
	Name string `json:"name"`
	Salt Hash   `json:"salt"`
}

// Closed is an item as other tenants are shown it.
type Closed struct {
	Epoch      Hash   `json:"epoch"`
	Seq        uint64 `json:"seq"`
	Pseudonym  Hash   `json:"pseudonym"`
	Commitment Hash   `json:"commitment"`
}

// Batch ends the items that one extend covers. It is written together with
// them, ahead of the extend: After is what the PCR is going to be.
type Batch struct {
	Epoch  Hash   `json:"epoch"`
	First  uint64 `json:"first"`
	Count  uint32 `json:"count"`
	Before banks  `json:"before"`
	After  banks  `json:"after"`
}

// Last is the sequence number of the batch's last item.
func (b *Batch) Last() uint64 { return b.First + uint64(b.Count) - 1 }

// banks is tpm.Values with a fixed order of keys.
type banks struct {
	SHA1     []byte `json:"sha1,omitempty"`
	SHA256   []byte `json:"sha256,omitempty"`
	SHA384   []byte `json:"sha384,omitempty"`
	SHA512   []byte `json:"sha512,omitempty"`
	SHA3x256 []byte `json:"sha3_256,omitempty"`
	SHA3x384 []byte `json:"sha3_384,omitempty"`
	SHA3x512 []byte `json:"sha3_512,omitempty"`
}

func (b *banks) slots() map[tpm.Bank]*[]byte {
	return map[tpm.Bank]*[]byte{
		tpm.SHA1: &b.SHA1, tpm.SHA256: &b.SHA256, tpm.SHA384: &b.SHA384, tpm.SHA512: &b.SHA512,
		tpm.SHA3x256: &b.SHA3x256, tpm.SHA3x384: &b.SHA3x384, tpm.SHA3x512: &b.SHA3x512,
	}
}

func toBanks(v tpm.Values) (b banks) {
	slots := b.slots()
	for k, x := range v {
		*slots[k] = x
	}
	return b
}

// values gives the banks that are set; each must have its hash's length.
func (b banks) values() (tpm.Values, error) {
	v := tpm.Values{}
	for k, x := range b.slots() {
		if len(*x) == 0 {
			continue
		}
		if len(*x) != k.Size() {
			return nil, fmt.Errorf("bank %s holds %d bytes, not %d", k, len(*x), k.Size())
		}
		v[k] = *x
	}
	if len(v) == 0 {
		return nil, errors.New("no bank holds a value")
	}
	return v, nil
}

// Record is what an item says.
type Record struct {
	Type string `json:"type"`
	Time Time   `json:"time"`
	// Namespace is the tenant; empty for the node itself.
	Namespace string `json:"namespace"`
	Container string `json:"container"`
	// Window is for how many seconds after Time equal events may have been
	// counted instead of recorded; a log-coalesced record has the count.
	Window uint32 `json:"window,omitempty"`
	// Salted holds the salted hashes of values that must not be read here.
	Salted []Salted `json:"salted"`
	Body   Raw      `json:"body"`
}

// Salted is the salted hash of one value (SaltedHash).
type Salted struct {
	Name string `json:"name"`
	Hash Hash   `json:"hash"`
}

// Time is written in UTC with nine digits of a second.
type Time struct{ time.Time }

const timeForm = "2006-01-02T15:04:05.000000000Z"

// MarshalText refuses years that do not have four digits.
func (t Time) MarshalText() ([]byte, error) {
	u := t.UTC()
	if y := u.Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("year %d has no canonical form", y)
	}
	return []byte(u.Format(timeForm)), nil
}

// UnmarshalText takes that form only.
func (t *Time) UnmarshalText(b []byte) error {
	x, err := time.Parse(timeForm, string(b))
	if err != nil {
		return err
	}
	t.Time = x
	return nil
}

// DecodeLine reads a stored line, without its newline. What it accepts is
// exactly what Encode writes: decoding and encoding again is the identity.
func DecodeLine(b []byte) (*Line, error) {
	if len(b) > MaxLine {
		return nil, fmt.Errorf("line of %d bytes is longer than %d", len(b), MaxLine)
	}
	var l Line
	if err := Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("line: %w", err)
	}
	again, err := l.encode(encoder{known: true})
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("line %w", errCanonical)
	}
	return &l, nil
}

// Encode gives the line's text without a newline.
func (l *Line) Encode() ([]byte, error) { return l.encode(encoder{}) }

func (l *Line) encode(e encoder) ([]byte, error) {
	n := 0
	if l.Item != nil {
		n++
		if _, err := l.Item.Open(); err != nil {
			return nil, err
		}
	}
	if l.Closed != nil {
		n++
	}
	if l.Batch != nil {
		n++
		if _, err := l.Batch.Before.values(); err != nil {
			return nil, fmt.Errorf("batch before: %w", err)
		}
		if _, err := l.Batch.After.values(); err != nil {
			return nil, fmt.Errorf("batch after: %w", err)
		}
	}
	if n != 1 {
		return nil, fmt.Errorf("line holds %d of item, closed and batch, not one", n)
	}
	return e.encode(nil, reflect.ValueOf(l), 0)
}

// Open decodes the item's record and checks its form. The record is the item's
// own: it is decoded once.
func (i *Item) Open() (*Record, error) {
	if i.opened != nil {
		return i.opened, nil
	}
	r, err := DecodeRecord(i.Record)
	if err != nil {
		return nil, err
	}
	if len(i.Salts) != len(r.Salted) {
		return nil, fmt.Errorf("item %d: %d salts for %d salted values", i.Seq, len(i.Salts), len(r.Salted))
	}
	for k, s := range i.Salts {
		if s.Name != r.Salted[k].Name {
			return nil, fmt.Errorf("item %d: salt %q stands at the place of %q", i.Seq, s.Name, r.Salted[k].Name)
		}
	}
	i.opened = r
	return r, nil
}

// Close gives what another tenant may see of the item.
func (i *Item) Close() (*Closed, error) {
	r, err := i.Open()
	if err != nil {
		return nil, err
	}
	return &Closed{i.Epoch, i.Seq, Pseudonym(i.Epoch, i.Blind, r.Namespace), Commitment(i.Salt, i.Record)}, nil
}

// Digest is the item's digest as its batch holds it.
func (c *Closed) Digest() Hash { return ItemDigest(c.Epoch, c.Seq, c.Pseudonym, c.Commitment) }

// DecodeRecord reads a record; decode and encode are the identity.
func DecodeRecord(b []byte) (*Record, error) {
	var r Record
	if err := Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	again, err := encoder{known: true}.encode(nil, reflect.ValueOf(&r), 0)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("record %w", errCanonical)
	}
	if !validType(r.Type) {
		return nil, fmt.Errorf("record type %q is not a name", r.Type)
	}
	return &r, nil
}

// validType says whether a type is 1 to 64 of a-z, 0-9 and the hyphen.
func validType(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}
