package evidence_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/evidence"
)

// made is evidence of the right form and without a meaning.
func made(t testing.TB, lines int) *evidence.Evidence {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	e := &evidence.Evidence{
		Version: 1, Purpose: evidence.Offline,
		Nonces: evidence.Nonces{Verifier: []byte{1, 2}}, SPKI: evidence.Keys{Own: spki},
		AK:         evidence.AK{Public: []byte{0, 0x23, 0, 0x0b, 9}, Certificates: [][]byte{{1}, {2}}},
		Quote:      evidence.Quote{Message: []byte{3}, Signature: []byte{4}},
		Properties: evidence.Properties{Manufacturer: "IBM", Vendor: "a\"b\\c\xff"},
		Boot:       []byte{5}, IMA: []byte{6}, Log: evidence.Log{Namespace: "d", From: 1},
	}
	for i := range lines {
		e.Log.Lines = append(e.Log.Lines, fmt.Appendf(nil, `{"closed":{"epoch":"%064x","seq":%d,"pseudonym":"]}\",\"signature\":\"","commitment":"%064x"}}`, 7, i+1, i))
	}
	if err := e.Sign(k); err != nil {
		t.Fatal(err)
	}
	return e
}

func encoded(t testing.TB, e *evidence.Evidence) []byte {
	t.Helper()
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeEncodeIsTheIdentity(t *testing.T) {
	for _, lines := range []int{0, 1, 7} {
		b := encoded(t, made(t, lines))
		if !json.Valid(b) {
			t.Fatalf("not JSON: %s", b)
		}
		e, err := evidence.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Log.Lines) != lines {
			t.Errorf("%d lines, not %d", len(e.Log.Lines), lines)
		}
		if err := e.VerifySignature(); err != nil {
			t.Error(err)
		}
		if again := encoded(t, e); !bytes.Equal(again, b) {
			t.Errorf("decoded and encoded again:\n%s\n%s", b, again)
		}
	}
}

// Every byte, every other value: what still decodes no longer bears a signature.
func TestEveryByteIsCovered(t *testing.T) {
	b := encoded(t, made(t, 2))
	naive, refused := 0, 0
	for i := range b {
		for v := range 256 {
			if byte(v) == b[i] {
				continue
			}
			if i%8 != 0 && v != int(b[i]^1) && v != int(b[i]^0x20) && v != '0' {
				continue
			}
			c := bytes.Clone(b)
			c[i] = byte(v)
			if json.Valid(c) {
				naive++
			}
			e, err := evidence.Decode(c)
			if err == nil {
				err = e.VerifySignature()
			}
			if err == nil {
				t.Fatalf("byte %d changed from %q to %q: accepted", i, b[i], byte(v))
			}
			refused++
		}
	}
	if naive < refused/10 {
		t.Errorf("a reader of any JSON took %d of %d: the changes are too coarse to test anything", naive, refused)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(encoded(t, made(t, 2)))
	change := func(old, new string) string {
		out := strings.Replace(good, old, new, 1)
		if out == good {
			t.Fatalf("%q is not there", old)
		}
		return out
	}
	for name, text := range map[string]string{
		"nothing":               "",
		"another version":       change(`"version":1`, `"version":2`),
		"another purpose":       change(`"offline"`, `"ticket"`),
		"white space":           change(`"version":1,`, `"version":1, `),
		"a key twice":           change(`"version":1,`, `"version":1,"version":1,`),
		"a key in another case": change(`"version":1,`, `"version":1,"Version":1,`),
		"an unknown key":        change(`"version":1,`, `"version":1,"more":1,`),
		"keys in another order": change(`"version":1,"purpose":"offline"`, `"purpose":"offline","version":1`),
		"upper-case hex":        change(`"public":"0023000b09"`, `"public":"0023000B09"`),
		"null":                  change(`"boot":"05"`, `"boot":null`),
		"lines twice":           change(`,"lines":[`, `,"lines":[],"lines":[`),
		"an empty line":         change(`,"lines":[`, `,"lines":[{},`),
		"a comma too many":      change(`]},"signature":"`, `,]},"signature":"`),
		"a space between lines": change(`"}},{"closed"`, `"}}, {"closed"`),
		"from zero":             change(`"from":1`, `"from":0`),
		"a container alone":     strings.Replace(change(`"container":""`, `"container":"c"`), `"namespace":"d"`, `"namespace":""`, 1),
		"bytes behind":          good + "\n",
		"no end":                good[:len(good)-1],
		"many members":          change(`"certificates":[`, `"certificates":[`+strings.Repeat(`"",`, 5000)),
		"many certificates":     change(`"certificates":[`, `"certificates":[`+strings.Repeat(`"",`, 10)),
		"a long field":          change(`"ticket":"`, `"ticket":"`+strings.Repeat("00", evidence.MaxField+1)),
		"deep nesting":          change(`"certificates":[`, strings.Repeat("[", 4000)),
	} {
		if _, err := evidence.Decode([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A hundred thousand lines take little more than they are long.
func TestDecodeIsBounded(t *testing.T) {
	b := encoded(t, made(t, 100_000))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := evidence.Decode(b); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > uint64(len(b)) {
		t.Errorf("%d bytes were allocated for %d", used, len(b))
	}
	for _, hostile := range []string{
		`{"a":` + strings.Repeat("[", 8<<20),
		`{"a","lines":[` + strings.Repeat("{},", 8<<20) + `]},"signature":"00"}`,
		string(b[:200]) + strings.Repeat(",", 8<<20),
	} {
		runtime.ReadMemStats(&before)
		if _, err := evidence.Decode([]byte(hostile)); err == nil {
			t.Error("accepted")
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 3*uint64(len(hostile)) {
			t.Errorf("%d bytes were allocated for %d hostile ones", used, len(hostile))
		}
	}
}

func TestSignRefusesAnotherKey(t *testing.T) {
	e := made(t, 0)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if e.Sign(k) == nil {
		t.Error("signed with a key that the quote does not bind")
	}
}

// Fields cannot run into one another, and each of them counts.
func TestQualificationBindsEveryField(t *testing.T) {
	base := evidence.Binding{Purpose: "p", Exporter: []byte("e"), VerifierNonce: []byte("v"), OwnNonce: []byte("o"), OwnSPKI: []byte("s"), PeerSPKI: []byte("q"), AKName: []byte("n"), Ticket: []byte("t")}
	seen := map[[32]byte]string{evidence.Qualification(base): "base"}
	for name, change := range map[string]func(*evidence.Binding){
		"purpose": func(b *evidence.Binding) { b.Purpose = "" }, "exporter": func(b *evidence.Binding) { b.Exporter = nil },
		"verifier nonce": func(b *evidence.Binding) { b.VerifierNonce = nil }, "own nonce": func(b *evidence.Binding) { b.OwnNonce = nil },
		"own key": func(b *evidence.Binding) { b.OwnSPKI = nil }, "peer key": func(b *evidence.Binding) { b.PeerSPKI = nil },
		"name": func(b *evidence.Binding) { b.AKName = nil }, "ticket": func(b *evidence.Binding) { b.Ticket = nil },
		"moved":   func(b *evidence.Binding) { b.VerifierNonce, b.OwnNonce = []byte("vo"), nil },
		"swapped": func(b *evidence.Binding) { b.OwnSPKI, b.PeerSPKI = b.PeerSPKI, b.OwnSPKI },
	} {
		b := base
		change(&b)
		q := evidence.Qualification(b)
		if other, dup := seen[q]; dup {
			t.Errorf("%s qualifies as %s does", name, other)
		}
		seen[q] = name
	}
	// The vector of docs/attestation.md.
	if got := fmt.Sprintf("%x", evidence.Qualification(base)); got != vector {
		t.Errorf("the vector is %s", got)
	}
}

const vector = "7f7fa0788ddfafefec02f3cea0d586f1950663eed146f4e1a05fc30dfb032d9f"

func FuzzDecode(f *testing.F) {
	f.Add(encoded(f, made(f, 2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := evidence.Decode(b)
		if err != nil {
			return
		}
		if again := encoded(t, e); !bytes.Equal(again, b) {
			t.Errorf("decoded and encoded again:\n%s\n%s", b, again)
		}
	})
}
