package key_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

func device(t testing.TB, path string) tpm.Device {
	t.Helper()
	d, err := tpm.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func open(t testing.TB, d tpm.Device, dir string) *key.AK {
	t.Helper()
	a, err := key.Open(t.Context(), d, dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func quote(t testing.TB, a *key.AK, d tpm.Device, qualifying []byte) (message, signature []byte) {
	t.Helper()
	message, signature, err := a.Quote(t.Context(), d.(tpm.Selector).Select(0, 1, 13), qualifying)
	if err != nil {
		t.Fatal(err)
	}
	return message, signature
}

// loaded says what is left in the TPM: transient objects and sessions.
func loaded(t testing.TB, x *swtpmtest.TPM) string {
	t.Helper()
	return string(swtpmtest.Tool(t, nil, "tpm2_getcap", "-T", x.TCTI(), "handles-transient")) +
		string(swtpmtest.Tool(t, nil, "tpm2_getcap", "-T", x.TCTI(), "handles-loaded-session"))
}

// A quote says what was asked, verifies with the key, and names a primary key
// of the endorsement hierarchy; the same key is found again.
func TestQuote(t *testing.T) {
	x := swtpmtest.Start(t)
	d := device(t, x.Device())
	dir := filepath.Join(t.TempDir(), "ak")
	a := open(t, d, dir)
	qualifying := sha256.Sum256([]byte("qualification"))
	message, signature := quote(t, a, d, qualifying[:])
	b, err := tpm2.Unmarshal[tpm2.TPMSAttest](message)
	if err != nil {
		t.Fatal(err)
	}
	want, err := key.QualifiedName(tpm2.TPMRHEndorsement, a.Name())
	if err != nil || !bytes.Equal(b.QualifiedSigner.Buffer, want) || !bytes.Equal(b.ExtraData.Buffer, qualifying[:]) {
		t.Errorf("signer %x, want %x; extra data %x", b.QualifiedSigner.Buffer, want, b.ExtraData.Buffer)
	}
	if other, err := key.QualifiedName(tpm2.TPMRHOwner, a.Name()); err != nil || bytes.Equal(other, want) {
		t.Error("hierarchies have one qualified name")
	}
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Signature.ECDSA()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(message)
	if !ecdsa.Verify(a.Key().(*ecdsa.PublicKey), sum[:], integer(e.SignatureR.Buffer), integer(e.SignatureS.Buffer)) {
		t.Error("signature does not verify")
	}
	if again := open(t, d, dir); !bytes.Equal(again.Name(), a.Name()) {
		t.Error("another key from the same directory")
	}
	if other := open(t, d, t.TempDir()); bytes.Equal(other.Name(), a.Name()) {
		t.Error("the same key from another seed: who knows no seed can make it")
	}
	if left := loaded(t, x); strings.TrimSpace(left) != "" {
		t.Errorf("left in the TPM: %s", left)
	}
	for name, mode := range map[string]os.FileMode{"": 0o700, "ak.seed": 0o600, "ak.pub": 0o600} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
}

// tpm2_checkquote accepts our quotes, and not with another qualification.
func TestCheckQuote(t *testing.T) {
	x := swtpmtest.Start(t)
	d := device(t, x.Device())
	a := open(t, d, t.TempDir())
	message, signature := quote(t, a, d, []byte("12345678"))
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	public := file("ak.tss", tpm2.Marshal(tpm2.New2B(a.Area())))
	args := []string{"-u", public, "-m", file("msg", message), "-s", file("sig", signature), "-g", "sha256", "-q"}
	swtpmtest.Tool(t, nil, "tpm2_checkquote", append(args, "3132333435363738")...)
	if swtpmtest.Succeeds(t, "tpm2_checkquote", append(args, "3132333435363739")...) {
		t.Error("accepted with another qualification")
	}
}

// A TPM reset voids the saved key; the next quote makes it again. Another TPM
// is told apart.
func TestResetAndOtherTPM(t *testing.T) {
	x := swtpmtest.Start(t)
	d := device(t, x.Device())
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a := open(t, d, dir)
	quote(t, a, d, nil)
	x.Restart()
	quote(t, a, d, nil)
	if left := loaded(t, x); strings.TrimSpace(left) != "" {
		t.Errorf("left in the TPM: %s", left)
	}
	var other *key.OtherTPMError
	y := device(t, swtpmtest.Start(t).Device())
	if _, err := key.Open(t.Context(), y, dir); !errors.As(err, &other) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("another TPM: %v", err)
	}
}

// Quotes and extends share the device; nothing is left behind, nothing fails.
func TestQuoteWhileExtending(t *testing.T) {
	x := swtpmtest.Start(t)
	d := device(t, x.Device())
	a := open(t, d, t.TempDir())
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 200 && err == nil; i++ {
			err = d.Extend(context.Background(), 13, tpm.HashAll(d.Banks(), []byte{byte(i)}))
		}
		done <- err
	}()
	for range 20 {
		quote(t, a, d, nil)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left := loaded(t, x); strings.TrimSpace(left) != "" {
		t.Errorf("left in the TPM: %s", left)
	}
}

// A TPM that hangs in the midst of a quote keeps the key loaded, and other
// programs leave theirs: room is made again.
func TestNothingIsHoarded(t *testing.T) {
	x := swtpmtest.Start(t)
	p := swtpmtest.NewProxy(t, x)
	d := device(t, p.Device())
	a := open(t, d, t.TempDir())
	for range 4 {
		release := make(chan struct{})
		p.Set(func(code uint32) {
			if code == uint32(tpm2.TPMCCQuote) {
				<-release
			}
		}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, _, err := a.Quote(ctx, nil, nil)
		cancel()
		p.Set(nil, nil)
		close(release)
		var late *tpm.TimeoutError
		if !errors.As(err, &late) {
			t.Fatalf("%v", err)
		}
	}
	quote(t, a, d, nil)
	if left := loaded(t, x); strings.TrimSpace(left) != "" {
		t.Errorf("left in the TPM: %s", left)
	}
	for i := range 3 {
		swtpmtest.Tool(t, nil, "tpm2_createprimary", "-Q", "-G", "ecc", "-c", filepath.Join(t.TempDir(), "c"), "-T", x.TCTI())
		if i == 2 && strings.Count(loaded(t, x), "0x8000000") != 3 {
			t.Fatal("tpm2_createprimary leaves nothing behind: this test tests nothing")
		}
	}
	quote(t, a, d, nil)
}

func BenchmarkQuote(b *testing.B) {
	d := device(b, swtpmtest.Start(b).Device())
	a := open(b, d, b.TempDir())
	sel := d.(tpm.Selector).Select(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14)
	for b.Loop() {
		if _, _, err := a.Quote(b.Context(), sel, make([]byte, 32)); err != nil {
			b.Fatal(err)
		}
	}
}

func integer(b []byte) *big.Int { return new(big.Int).SetBytes(b) }

// Who may use the TPM and knows all that is public cannot make our key and have
// it quote what he likes. A key from a fixed template, he can.
func TestStrangerCannotMakeTheKey(t *testing.T) {
	d := device(t, swtpmtest.Start(t).Device())
	a := open(t, d, t.TempDir())
	primary := func(template tpm2.TPMTPublic) (name []byte) {
		t.Helper()
		err := d.(tpm.Commander).Command(t.Context(), "stranger's key", 0, func(l transport.TPM) error {
			r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)}.Execute(l)
			if err == nil {
				name = r.Name.Buffer
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	fixed := a.Area()
	fixed.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	if !bytes.Equal(primary(fixed), primary(fixed)) {
		t.Error("a fixed template makes two keys: this test tests nothing")
	}
	for what, template := range map[string]tpm2.TPMTPublic{"the public area": a.Area(), "the template without the seed": fixed} {
		if bytes.Equal(primary(template), a.Name()) {
			t.Errorf("%s makes the key", what)
		}
	}
}
