package reference

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func openStore(t *testing.T, dir string, trust ...Key) *Store {
	t.Helper()
	s, err := OpenStore(dir, trust)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	s, k := fixed(t, "release", 1)
	dir := filepath.Join(t.TempDir(), "references")
	st := openStore(t, dir, k)
	for i := range 2 { // importing again changes nothing
		if _, err := st.Import(sign(t, bundle(2), s), now); err != nil {
			t.Fatalf("import %d: %v", i, err)
		}
	}
	for _, st := range []*Store{st, openStore(t, dir, k)} {
		f := st.Find(hexDigest("a"), now)
		if len(f) != 1 || f[0].Version != 2 || f[0].SignedBy[0] != "release/web" || len(f[0].Image.Layers) != 1 {
			t.Errorf("found %+v", f)
		}
		if f := st.Find(hexDigest("b"), now); f != nil {
			t.Errorf("found %+v for an image it does not list", f)
		}
		if f := st.Find(hexDigest("a"), now.Add(25*time.Hour)); f != nil {
			t.Errorf("an expired bundle speaks: %+v", f)
		}
		var expired *ExpiredError
		if p := st.Problems(now.Add(25 * time.Hour)); len(p) != 1 || !errors.As(p[0], &expired) {
			t.Errorf("problems %v", p)
		}
	}
}

// Versions only grow: across processes, after expiry, and when the key that
// signed the newest is no longer trusted.
func TestStoreRollback(t *testing.T) {
	a, ka := fixed(t, "a", 1)
	b, kb := fixed(t, "b", 2)
	dir := t.TempDir()
	if _, err := openStore(t, dir, ka).Import(sign(t, bundle(5), a), now); err != nil {
		t.Fatal(err)
	}
	var rollback *RollbackError
	refused := func(st *Store, env []byte) {
		t.Helper()
		if _, err := st.Import(env, now); !errors.As(err, &rollback) {
			t.Errorf("not refused: %v", err)
		}
	}
	refused(openStore(t, dir, ka), sign(t, bundle(4), a))
	other := bundle(5)
	other.Images[0].Platform = "linux/arm64"
	refused(openStore(t, dir, ka), sign(t, other, a))

	st := openStore(t, dir, kb)
	if f := st.Find(hexDigest("a"), now); f != nil {
		t.Errorf("a key that is not trusted speaks: %+v", f)
	}
	refused(st, sign(t, bundle(4), b))
	refused(st, sign(t, other, b))
	// The same content, signed anew, is no step back.
	if _, err := st.Import(sign(t, bundle(5), b), now); err != nil {
		t.Errorf("same content under the new key: %v", err)
	}
	empty := bundle(6)
	empty.Images = []Image{}
	if _, err := st.Import(sign(t, empty, b), now); err != nil {
		t.Fatal(err)
	}
	if f := st.Find(hexDigest("a"), now); f != nil {
		t.Errorf("a withdrawn image is still found: %+v", f)
	}
}

// A damaged file takes its bundle's word, says so, and lets nothing else under
// its name until somebody looks. What a crash left half-written is swept away.
func TestStoreDamage(t *testing.T) {
	s, k := fixed(t, "k", 1)
	for name, damage := range map[string]func(file string) error{
		"truncated": func(file string) error { return os.Truncate(file, 50) },
		"other name": func(file string) error {
			b := bundle(9)
			b.Name = "db"
			return os.WriteFile(file, sign(t, b, s), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := openStore(t, dir, k).Import(sign(t, bundle(2), s), now); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(dir, "web.dsse")); err != nil {
				t.Fatal(err)
			}
			half := filepath.Join(dir, importing+"123")
			if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			st := openStore(t, dir, k)
			if f := st.Find(hexDigest("a"), now); f != nil {
				t.Errorf("found %+v", f)
			}
			if p := st.Problems(now); len(p) != 1 || !strings.Contains(p[0].Error(), "web.dsse") {
				t.Errorf("problems %v", p)
			}
			var malformed *MalformedError
			if _, err := st.Import(sign(t, bundle(1), s), now); !errors.As(err, &malformed) {
				t.Errorf("import over damage: %v", err)
			}
			if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("half-written import: %v", err)
			}
		})
	}
}

func TestStoreRefusesExpiredAndUntrusted(t *testing.T) {
	s, k := fixed(t, "k", 1)
	stranger, _ := fixed(t, "stranger", 2)
	st := openStore(t, t.TempDir(), k)
	var expired *ExpiredError
	if _, err := st.Import(sign(t, bundle(1), s), now.Add(48*time.Hour)); !errors.As(err, &expired) {
		t.Errorf("expired: %v", err)
	}
	var untrusted *UntrustedError
	if _, err := st.Import(sign(t, bundle(1), stranger), now); !errors.As(err, &untrusted) {
		t.Errorf("untrusted: %v", err)
	}
	// Neither left a version behind.
	if _, err := st.Import(sign(t, bundle(1), s), now); err != nil {
		t.Error(err)
	}
}
