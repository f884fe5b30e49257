package reference

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

var update = flag.Bool("update", false, "rewrite the vector")

var (
	now       = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	hexDigest = func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
)

func bundle(version uint64) *Bundle {
	return &Bundle{Name: "web", Version: version, Expires: now.Add(24 * time.Hour), Images: []Image{{
		Manifest: hexDigest("a"), Platform: "linux/amd64",
		Layers: []Layer{{DiffID: hexDigest("b"), Digest: "sealift-layer-v1:" + strings.Repeat("c", 64)}},
	}}}
}

// signer makes a signer and the key that trusts it.
func signer(t testing.TB, name string, private crypto.Signer) (*Signer, Key) {
	t.Helper()
	s, err := NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := s.Public()
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey(name, public)
	if err != nil {
		t.Fatal(err)
	}
	return s, k
}

// fixed is a key that is the same in every run.
func fixed(t testing.TB, name string, seed byte) (*Signer, Key) {
	t.Helper()
	return signer(t, name, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func sign(t testing.TB, b *Bundle, signers ...*Signer) []byte {
	t.Helper()
	env, err := Sign(context.Background(), b, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestSignVerify(t *testing.T) {
	keys := map[string]crypto.Signer{"ed25519": ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))}
	for name, c := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = k
	}
	for name, private := range keys {
		t.Run(name, func(t *testing.T) {
			s, k := signer(t, name, private)
			_, other := fixed(t, "other", 9)
			env := sign(t, bundle(3), s)
			v, err := Verify(env, []Key{other, k}, now)
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Keys) != 1 || v.SignedBy()[0] != name+"/web" || v.Bundle.Version != 3 || v.Bundle.Images[0].Layers[0].DiffID != hexDigest("b") {
				t.Errorf("%+v", v)
			}
			var untrusted *UntrustedError
			if _, err := Verify(env, []Key{other}, now); !errors.As(err, &untrusted) {
				t.Errorf("another key: %v", err)
			}
			if _, err := Verify(env, nil, now); !errors.As(err, &untrusted) {
				t.Errorf("no key: %v", err)
			}
		})
	}
}

// The bytes of a bundle never change: others sign and read them too.
func TestVector(t *testing.T) {
	s, k := fixed(t, "fixed", 1)
	env := sign(t, bundle(7), s)
	if *update {
		if err := os.WriteFile("testdata/bundle.dsse", env, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/bundle.dsse")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(env, want) {
		t.Errorf("got\n%s\nwant\n%s", env, want)
	}
	if _, err := Verify(want, []Key{k}, now); err != nil {
		t.Error(err)
	}
}

func TestTwoSignatures(t *testing.T) {
	a, ka := fixed(t, "a", 1)
	b, kb := fixed(t, "b", 2)
	v, err := Verify(sign(t, bundle(1), b, a), []Key{ka, kb}, now)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(v.SignedBy(), " "); got != "a/web b/web" {
		t.Errorf("signed by %s", got)
	}
}

// Every single bit of the payload, and of the signature, counts.
func TestEveryBit(t *testing.T) {
	s, k := fixed(t, "k", 1)
	var env dsse.Envelope
	if err := json.Unmarshal(sign(t, bundle(1), s), &env); err != nil {
		t.Fatal(err)
	}
	for _, field := range []*string{&env.Payload, &env.Signatures[0].Sig} {
		good := *field
		raw, err := base64.StdEncoding.DecodeString(good)
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(raw) * 8 {
			raw[i/8] ^= 1 << (i % 8)
			*field = base64.StdEncoding.EncodeToString(raw)
			raw[i/8] ^= 1 << (i % 8)
			data, err := json.Marshal(env)
			if err != nil {
				t.Fatal(err)
			}
			if v, err := Verify(data, []Key{k}, now); err == nil {
				t.Fatalf("bit %d: accepted %+v", i, v)
			}
		}
		*field = good
	}
}

func TestExpiry(t *testing.T) {
	s, k := fixed(t, "k", 1)
	env := sign(t, bundle(1), s)
	var expired *ExpiredError
	for at, ok := range map[time.Duration]bool{0: true, 24*time.Hour - 1: true, 24 * time.Hour: false, 48 * time.Hour: false} {
		_, err := Verify(env, []Key{k}, now.Add(at))
		if (err == nil) != ok || err != nil && !errors.As(err, &expired) {
			t.Errorf("after %s: %v", at, err)
		}
	}
}

// A payload has one spelling, even when a trusted key signed another.
func TestDecodeRefusesOtherSpellings(t *testing.T) {
	good, err := bundle(1).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Decode(good); err != nil || b.Name != "web" {
		t.Fatal(err)
	}
	text := string(good)
	for name, bad := range map[string]string{
		"unknown key":      strings.Replace(text, `"version"`, `"comment":"x","version"`, 1),
		"duplicate key":    strings.Replace(text, `"version":1`, `"version":1,"version":2`, 1),
		"case variant":     strings.Replace(text, `"version"`, `"Version"`, 1),
		"both cases":       strings.Replace(text, `"version":1`, `"version":1,"VERSION":9`, 1),
		"nested duplicate": strings.Replace(text, `"platform":"linux/amd64"`, `"platform":"linux/amd64","platform":"linux/arm64"`, 1),
		"missing":          strings.Replace(text, `"version":1,`, ``, 1),
		"order":            strings.Replace(text, `"name":"web","version":1`, `"version":1,"name":"web"`, 1),
		"white space":      strings.Replace(text, `,`, `, `, 1),
		"escape":           strings.Replace(text, `"web"`, `"\u0077eb"`, 1),
		"number":           strings.Replace(text, `:1,`, `:1.0,`, 1),
		"negative":         strings.Replace(text, `:1,`, `:-1,`, 1),
		"zero":             strings.Replace(text, `:1,`, `:0,`, 1),
		"offset":           strings.Replace(text, `12:00:00Z`, `13:00:00+01:00`, 1),
		"fraction":         strings.Replace(text, `12:00:00Z`, `12:00:00.5Z`, 1),
		"null":             strings.Replace(text, text[strings.Index(text, `"images":`)+9:len(text)-1], `null`, 1),
		"trailing":         text + "{}",
		"newline":          text + "\n",
		"upper-case hex":   strings.Replace(text, hexDigest("a"), strings.ToUpper(hexDigest("a")), 1),
		"name":             strings.Replace(text, `"web"`, `"../web"`, 1),
		"array":            "[" + text + "]",
		"deep":             strings.Repeat("[", 10000),
		"empty":            "",
	} {
		var malformed *MalformedError
		if bad == text {
			t.Errorf("%s: the mutation changed nothing", name)
		}
		if b, err := Decode([]byte(bad)); !errors.As(err, &malformed) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
}

func TestEnvelopeRefused(t *testing.T) {
	s, k := fixed(t, "k", 1)
	text := string(sign(t, bundle(1), s))
	for name, bad := range map[string]string{
		"payload type":      strings.Replace(text, "reference.v1", "reference.v2", 1),
		"duplicate payload": strings.Replace(text, `"payload":`, `"payload":"e30=","payload":`, 1),
		"case variant":      strings.Replace(text, `"payload":`, `"Payload":"e30=","payload":`, 1),
		"no signature":      text[:strings.Index(text, `"signatures"`)] + `"signatures":[]}`,
		"many signatures":   strings.Replace(text, `"signatures":[`, `"signatures":[`+strings.Repeat(`{"keyid":"","sig":""},`, 16), 1),
		"base64":            strings.Replace(text, `"payload":"`, `"payload":"*`, 1),
		"not JSON":          "x",
	} {
		var malformed *MalformedError
		if bad == text {
			t.Errorf("%s: the mutation changed nothing", name)
		}
		if _, err := Verify([]byte(bad), []Key{k}, now); !errors.As(err, &malformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The key id is not signed: a wrong one takes nothing away.
	id, err := s.KeyID()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify([]byte(strings.Replace(text, id, "somebody", 1)), []Key{k}, now); err != nil {
		t.Errorf("key id: %v", err)
	}
}

func TestLoadTrust(t *testing.T) {
	s, k := fixed(t, "release", 1)
	public, err := s.Public()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "trust.d")
	if keys, err := LoadTrust(dir); err != nil || keys != nil {
		t.Fatalf("absent: %v, %v", keys, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, data []byte, mode os.FileMode) func() {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		return func() { os.Remove(file) }
	}
	put("release.pem", public, 0o644)
	put("README", []byte("x"), 0o644)
	keys, err := LoadTrust(dir)
	if err != nil || len(keys) != 1 || keys[0].Name != "release" || keys[0].ID != k.ID {
		t.Fatalf("%+v, %v", keys, err)
	}
	for _, c := range []struct {
		name, file string
		data       []byte
		mode       os.FileMode
	}{
		{"writable", "a.pem", public, 0o666},
		{"same key", "a.pem", public, 0o644},
		{"not PEM", "a.pem", []byte("x"), 0o644},
		{"two keys", "a.pem", append(bytes.Clone(public), public...), 0o644},
		{"private", "a.pem", []byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"), 0o644},
		{"name", "a b.pem", public, 0o644},
	} {
		remove := put(c.file, c.data, c.mode)
		if keys, err := LoadTrust(dir); err == nil {
			t.Errorf("%s: accepted %+v", c.name, keys)
		}
		remove()
	}
}

func FuzzVerify(f *testing.F) {
	s, k := fixed(f, "k", 1)
	f.Add(sign(f, bundle(1), s))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Verify(data, []Key{k}, now)
		if err == nil {
			again, err := v.Bundle.Encode()
			if err != nil || v.Digest == "" || len(again) == 0 {
				t.Fatalf("accepted what does not encode: %v", err)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	good, err := bundle(1).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Decode(data)
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q decodes and encodes as %q, %v", data, again, err)
		}
	})
}
