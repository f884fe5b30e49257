package eventlog

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/tpm"
)

var update = flag.Bool("update", false, "write the vectors of docs/event-log.md anew")

const docs = "../../docs/event-log.md"

func same(b byte) (h Hash) {
	for i := range h {
		h[i] = b
	}
	return h
}

// The vectors in the docs are what the code computes.
func TestVectors(t *testing.T) {
	epoch := epochID("host-a", "b", 7, 1, same(1))
	pseudonym := Pseudonym(epoch, same(2), "default")
	salted := SaltedHash(same(4), "env", []byte("A=1"))
	rec := &Record{
		Type: "launch", Time: Time{time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}, Namespace: "default", Container: "c\xff\\\"\n",
		Salted: []Salted{{"env", salted}}, Body: Raw(`{"image":"busybox"}`),
	}
	record, err := Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	commitment := Commitment(same(3), record)
	item := ItemDigest(epoch, 1, pseudonym, commitment)
	data := EventData(epoch, 1, []Hash{item})
	list := []tpm.Bank{tpm.SHA1, tpm.SHA256, tpm.SHA384}
	after := tpm.Zero(list).Extended(tpm.HashAll(list, data))
	line := Line{Item: &Item{Epoch: epoch, Seq: 1, Blind: same(2), Salt: same(3), Salts: []Salt{{"env", same(4)}}, Record: record}}
	itemLine, err := line.Encode()
	if err != nil {
		t.Fatal(err)
	}
	line = Line{Batch: &Batch{epoch, 1, 1, toBanks(tpm.Zero(list)), toBanks(after)}}
	batchLine, err := line.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, v := range [][2]string{
		{"epoch", epoch.String()}, {"pseudonym", pseudonym.String()}, {"salted", salted.String()}, {"record", string(record)},
		{"commitment", commitment.String()}, {"item", item.String()}, {"data", fmt.Sprintf("%x", data)},
		{"after.sha1", after.Strings()["sha1"]}, {"after.sha256", after.Strings()["sha256"]}, {"after.sha384", after.Strings()["sha384"]},
		{"line.item", string(itemLine)}, {"line.batch", string(batchLine)},
	} {
		fmt.Fprintf(&b, "%s = %s\n", v[0], v[1])
	}
	page, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(page), "```vectors\n")
	if *update {
		if err := os.WriteFile(docs, []byte(head+"```vectors\n"+b.String()+"```\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, _, ok := strings.Cut(rest, "```")
	if !ok || got != b.String() {
		t.Errorf("docs/event-log.md says\n%s\nthe code says\n%s", got, b.String())
	}
}

func TestStringsAreLossless(t *testing.T) {
	var all [256]byte
	for i := range all {
		all[i] = byte(i)
	}
	seen := map[string]string{}
	for _, s := range []string{
		"", "plain", "x\xff", "x\xfe", `x\xff`, `x\\xff`, `\`, `\\`, `\x`, "\xed\xa0\x80", "\ufffd", "K\u212a", "\u2028", "é", "e\u0301",
		"\x00", "\x7f", `"`, "a\nb", "<>&", string(all[:]), "\xf0\x9f\x98", "😀",
	} {
		b, err := Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if was, ok := seen[string(b)]; ok {
			t.Errorf("%q and %q are both written %s", was, s, b)
		}
		seen[string(b)] = s
		var back string
		if err := Unmarshal(b, &back); err != nil || back != s {
			t.Errorf("%q → %s → %q, %v", s, b, back, err)
		}
		// Any other JSON reader must be able to get the bytes back too.
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		if got, err := unescape(text); err != nil || got != s {
			t.Errorf("%q → %s → encoding/json → %q, %v", s, b, got, err)
		}
	}
}

func TestMarshal(t *testing.T) {
	type inner struct {
		N int8 `json:"n"`
	}
	type embedded struct {
		E string `json:"e"`
	}
	for _, k := range []struct {
		v    any
		want string
	}{
		{nil, `null`},
		{map[string]string{"b": "2", "B": "1", "a\xff": ""}, `[{"name":"B","value":"1"},{"name":"a\\xff","value":""},{"name":"b","value":"2"}]`},
		{[]byte{1, 0xff}, `"01ff"`},
		{[2]byte{1, 2}, `"0102"`},
		{[]string(nil), `[]`},
		{struct {
			embedded
			X *inner `json:"x"`
			Y *inner `json:"y,omitempty"`
			Z bool   `json:"-"`
			W uint64
		}{embedded{"e"}, &inner{-3}, nil, true, 1 << 63}, `{"e":"e","x":{"n":-3},"W":9223372036854775808}`},
		{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), `"2026-01-02T03:04:05Z"`},
		{Raw(`{"a":1}`), `{"a":1}`},
	} {
		b, err := Marshal(k.v)
		if err != nil || string(b) != k.want {
			t.Errorf("%#v: %s, %v; want %s", k.v, b, err, k.want)
		}
	}
	loop := []any{nil}
	loop[0] = loop
	for _, v := range []any{1.5, map[int]int{1: 1}, make(chan int), func() {}, Raw(`{"a":1,"A":2}`), Raw(`{ }`), loop} {
		if b, err := Marshal(v); err == nil {
			t.Errorf("%T has no canonical form and was written %s", v, b)
		}
	}
}

const goodLine = `{"closed":{"epoch":"` + zeros + `","seq":1,"pseudonym":"` + zeros + `","commitment":"` + zeros + `"}}`
const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

func TestDecodeLineRefuses(t *testing.T) {
	if _, err := DecodeLine([]byte(goodLine)); err != nil {
		t.Fatal(err)
	}
	record := `{"type":"a","time":"2026-01-02T03:04:05.000000006Z","namespace":"","container":"","salted":[],"body":BODY}`
	item := `{"item":{"epoch":"` + zeros + `","seq":1,"blind":"` + zeros + `","salt":"` + zeros + `","salts":[],"record":` + record + `}}`
	body := func(s string) string { return strings.Replace(item, "BODY", s, 1) }
	if _, err := DecodeLine([]byte(body(`{"x":[1,-2,"\\xff"]}`))); err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{
		"empty":                 ``,
		"no kind":               `{}`,
		"two kinds":             strings.TrimSuffix(goodLine, "}") + `,"batch":null}`,
		"null kind":             `{"closed":null}`,
		"unknown key":           strings.Replace(goodLine, `"seq":1`, `"seq":1,"more":2`, 1),
		"missing key":           strings.Replace(goodLine, `"seq":1,`, ``, 1),
		"order":                 `{"closed":{"seq":1,"epoch":"` + zeros + `","pseudonym":"` + zeros + `","commitment":"` + zeros + `"}}`,
		"case of a key":         strings.Replace(goodLine, `"seq"`, `"Seq"`, 1),
		"key twice":             strings.Replace(goodLine, `"seq":1`, `"seq":1,"seq":1`, 1),
		"key in two cases":      strings.Replace(goodLine, `"seq":1`, `"seq":1,"SEQ":1`, 1),
		"space":                 strings.Replace(goodLine, `"seq":1`, `"seq": 1`, 1),
		"leading space":         " " + goodLine,
		"newline":               goodLine + "\n",
		"two values":            goodLine + goodLine,
		"upper-case hex":        strings.Replace(goodLine, zeros, "A"+zeros[1:], 1),
		"short hex":             strings.Replace(goodLine, zeros, zeros[1:], 1),
		"leading zero":          strings.Replace(goodLine, `"seq":1`, `"seq":01`, 1),
		"exponent":              strings.Replace(goodLine, `"seq":1`, `"seq":1e0`, 1),
		"fraction":              strings.Replace(goodLine, `"seq":1`, `"seq":1.0`, 1),
		"minus zero":            strings.Replace(goodLine, `"seq":1`, `"seq":-0`, 1),
		"negative":              strings.Replace(goodLine, `"seq":1`, `"seq":-1`, 1),
		"overflow":              strings.Replace(goodLine, `"seq":1`, `"seq":18446744073709551616`, 1),
		"string number":         strings.Replace(goodLine, `"seq":1`, `"seq":"1"`, 1),
		"body two cases":        body(`{"type":1,"Type":2}`),
		"body key twice":        body(`{"a":1,"a":1}`),
		"body key not ASCII":    body("{\"\u212a\":1}"),
		"body raw bytes":        body("\"\xff\""),
		"body lone escape":      body(`"\\q"`),
		"body half escape":      body(`"\\xf"`),
		"body upper escape":     body(`"\\xFF"`),
		"body needless escape":  body(`"\\x41"`),
		"body needless unicode": body(`"\u0041"`),
		"body slash":            body(`"\/"`),
		"body newline escape":   body(`"\n"`),
		"body surrogate":        body(`"\udcff"`),
		"body control":          body("\"\x01\""),
		"body DEL":              body("\"\x7f\""),
		"body deep":             body(strings.Repeat("[", 40) + strings.Repeat("]", 40)),
		"body trailing comma":   body(`[1,]`),
		"body cut":              body(`[1`),
		"type":                  strings.Replace(body("1"), `"type":"a"`, `"type":"A"`, 1),
		"time":                  strings.Replace(body("1"), `.000000006Z`, `Z`, 1),
		"time of no day":        strings.Replace(body("1"), `2026-01-02`, `2026-02-30`, 1),
		"salts differ":          strings.Replace(body("1"), `"salts":[]`, `"salts":[{"name":"x","salt":"`+zeros+`"}]`, 1),
		"batch no banks":        `{"batch":{"epoch":"` + zeros + `","first":1,"count":1,"before":{},"after":{}}}`,
		"batch short bank":      `{"batch":{"epoch":"` + zeros + `","first":1,"count":1,"before":{"sha256":"00"},"after":{"sha256":"00"}}}`,
	} {
		if l, err := DecodeLine([]byte(line)); err == nil {
			t.Errorf("%s: accepted as %+v", name, l)
		}
	}
}

// What is accepted is what would be written, and nothing crashes the reader.
func FuzzDecodeLine(f *testing.F) {
	f.Add([]byte(goodLine))
	page, err := os.ReadFile(docs)
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(page) {
		if _, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" = ")); ok {
			f.Add(value)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeLine(b)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q decodes and encodes to %q, %v", b, again, err)
		}
		// No other reader may see something else in it.
		var any map[string]any
		if err := json.Unmarshal(b, &any); err != nil || len(any) != 1 {
			t.Fatalf("%q: encoding/json: %v", b, err)
		}
	})
}

// Replaying foreign lines must not crash or hang, whatever they are.
func FuzzReplay(f *testing.F) {
	f.Add([]byte(goodLine + "\n" + goodLine + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Verify(LinesOf(bytes.NewReader(b)), nil)
		if err == nil && r.Match != MatchUnknown {
			t.Fatalf("%+v", r)
		}
	})
}

func FuzzString(f *testing.F) {
	f.Add("x\xff", `x\xff`)
	f.Fuzz(func(t *testing.T, a, b string) {
		x, err := Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		y, err := Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if (a == b) != bytes.Equal(x, y) {
			t.Fatalf("%q and %q are written %s and %s", a, b, x, y)
		}
		var back string
		if err := Unmarshal(x, &back); err != nil || back != a {
			t.Fatalf("%q → %s → %q, %v", a, x, back, err)
		}
	})
}

// Lines that do not follow from one another are refused, each for its own reason.
func TestReplayRefusesJumps(t *testing.T) {
	epoch := &epochBody{Version: FormatVersion, Instance: "a", BootID: "b", Number: 1, Initial: toBanks(tpm.Zero([]tpm.Bank{tpm.SHA256})), State: Trusted}
	l := &Log{r: newReplay(), st: &store{}}
	l.r.epoch, l.r.id, l.r.values = epoch, epoch.id(), tpm.Zero([]tpm.Bank{tpm.SHA256})
	one := func(before tpm.Values, kinds ...string) []byte {
		var batch []*request
		for _, k := range kinds {
			var body any = map[string]string{}
			if k == typeEpoch {
				body = epoch
			}
			q, err := newRequest("", "", k, body, nil, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			batch = append(batch, q)
		}
		text, p, err := l.compose(before, batch)
		if err != nil {
			t.Fatal(err)
		}
		l.r.values, l.r.seq = p.after, p.batch.Last()
		return text
	}
	first := one(l.r.values, typeEpoch)
	good := l.r.values
	second := one(good, "note")
	l.r.values, l.r.seq = good, 1
	jump := one(tpm.Values{tpm.SHA256: bytes.Repeat([]byte{7}, 32)}, "note")
	l.r.values, l.r.seq = good, 1
	again := one(good, typeEpoch)
	l.r.values, l.r.seq = good, 2
	gap := one(good, "note")
	for name, k := range map[string]struct {
		text []byte
		ok   bool
	}{
		"in order":          {append(bytes.Clone(first), second...), true},
		"undeclared jump":   {append(bytes.Clone(first), jump...), false},
		"second epoch":      {append(bytes.Clone(first), again...), false},
		"gap":               {append(bytes.Clone(first), gap...), false},
		"batch twice":       {append(append(bytes.Clone(first), second...), second...), false},
		"without its first": {second, false},
		"empty":             {nil, false},
	} {
		_, err := Verify(LinesOf(bytes.NewReader(k.text)), good)
		if (err == nil) != k.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
