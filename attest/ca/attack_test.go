package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// naive is the CA that many would write: it certifies a key that signed
// something that looks like a TPM's quote about the request.
func naive(t *testing.T, request []byte) bool {
	t.Helper()
	var r enroll.Request
	if err := enroll.Decode(request, &r); err != nil {
		t.Fatal(err)
	}
	ak := must(key.ParsePublic(r.AK))(t)
	ek := must(key.ParsePublic(r.EK))(t)
	s := must(tpm2.Unmarshal[tpm2.TPMTSignature](r.Quote.Signature))(t)
	e := must(s.Signature.ECDSA())(t)
	sum := sha256.Sum256(r.Quote.Message)
	if !ecdsa.Verify(ak.Key().(*ecdsa.PublicKey), sum[:], new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)) {
		return false
	}
	q := must(tpm2.Unmarshal[tpm2.TPMSAttest](r.Quote.Message))(t)
	want := r.Qualification(ak.Name(), ek.Name())
	return q.Magic == tpm2.TPMGeneratedValue && bytes.Equal(q.ExtraData.Buffer, want[:])
}

// forger signs quotes with a key that is in no TPM.
type forger struct {
	key  *ecdsa.PrivateKey
	area tpm2.TPMTPublic
}

// newForger makes a key whose public area is an attestation key's, but for change.
func newForger(t *testing.T, like *key.AK, change func(*tpm2.TPMTPublic)) *forger {
	t.Helper()
	k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	area := like.Area()
	b := must(k.PublicKey.Bytes())(t)
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: b[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: b[33:]}})
	change(&area)
	return &forger{k, area}
}

func (f *forger) public(t *testing.T) *key.Public {
	t.Helper()
	return must(key.ParsePublic(tpm2.Marshal(f.area)))(t)
}

func (f *forger) quote(t *testing.T, extra []byte) enroll.Quote {
	t.Helper()
	signer := must(key.QualifiedName(tpm2.TPMRHEndorsement, f.public(t).Name()))(t)
	message := tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, QualifiedSigner: tpm2.TPM2BName{Buffer: signer},
		ExtraData: tpm2.TPM2BData{Buffer: extra}, FirmwareVersion: 0x0007005500000000,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{}),
	})
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, f.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return enroll.Quote{Message: message, Signature: tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
		&tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()}})})}
}

// request is the forger's, with another host's endorsement key.
func (f *forger) request(t *testing.T, ek *key.EK) []byte {
	t.Helper()
	r := &enroll.Request{Version: enroll.Version, Host: "evil", AK: tpm2.Marshal(f.area), EK: ek.Public, Manufacturer: "IFX", Vendor: "SLB9670", Firmware: "00070055.00000000"}
	q := r.Qualification(f.public(t).Name(), ek.Name())
	r.Quote = f.quote(t, q[:])
	return must(enroll.Encode(r))(t)
}

// Keys that are in no TPM, or could be elsewhere, or sign anything.
func TestAttackKeyAttributes(t *testing.T) {
	c := newCA(t, Options{})
	h := host(t, swtpmtest.Start(t), "evil", t.TempDir())
	pinHost(t, c, h)
	for name, change := range map[string]func(*tpm2.TPMTPublic){
		"unrestricted":   func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false },
		"not fixedTPM":   func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false },
		"imported":       func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false },
		"movable":        func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedParent = false },
		"decrypts":       func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true },
		"with a policy":  func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = make([]byte, 32) },
		"by policy only": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.UserWithAuth = false },
	} {
		request := newForger(t, h.AK, change).request(t, h.EK)
		if !naive(t, request) {
			t.Errorf("%s: the attack does not work on the naive CA", name)
		}
		_, err := c.Challenge(request)
		refused(t, err, "ak", "attestation key ")
	}
	// And one whose public area tells nothing but lies: only activation finds out.
	f := newForger(t, h.AK, func(*tpm2.TPMTPublic) {})
	request := f.request(t, h.EK)
	if !naive(t, request) {
		t.Error("never activated: the attack does not work on the naive CA")
	}
	var challenge enroll.Challenge
	b := must(c.Challenge(request))(t)
	if err := enroll.Decode(b, &challenge); err != nil {
		t.Fatal(err)
	}
	if opened, err := h.AK.ActivateWith(t.Context(), h.EK, challenge.Credential, challenge.Secret); err == nil {
		t.Errorf("the TPM opened %x for a key it does not hold", opened)
	}
	guess := make([]byte, secretSize)
	q := challenge.Qualification(guess)
	_, err := c.Issue(must(enroll.Encode(&enroll.Answer{Version: enroll.Version, ID: challenge.ID, Secret: guess, Quote: f.quote(t, q[:])}))(t))
	refused(t, err, "challenge", "was not opened")
	if list := must(c.Records())(t); len(list) != 0 {
		t.Errorf("certified %d keys", len(list))
	}
}

// A key of the owner hierarchy quotes obfuscated counters, and its TPM's owner
// can make and lose it. Everything else about it is right.
func TestAttackOwnerHierarchy(t *testing.T) {
	c := newCA(t, Options{})
	h := host(t, swtpmtest.Start(t), "web1", t.TempDir())
	pinHost(t, c, h)
	template := h.AK.Area()
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	r := &enroll.Request{Version: enroll.Version, Host: "web1", EK: h.EK.Public}
	err := h.Device.(tpm.Commander).Command(t.Context(), "owner's key", 0, func(l transport.TPM) error {
		k, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)}.Execute(l)
		if err != nil {
			return err
		}
		area, err := k.OutPublic.Contents()
		if err != nil {
			return err
		}
		r.AK = tpm2.Marshal(*area)
		q := r.Qualification(k.Name.Buffer, h.EK.Name())
		s, err := tpm2.Quote{SignHandle: tpm2.AuthHandle{Handle: k.ObjectHandle, Name: k.Name, Auth: tpm2.PasswordAuth(nil)}, QualifyingData: tpm2.TPM2BData{Buffer: q[:]}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(l)
		if err != nil {
			return err
		}
		r.Quote = enroll.Quote{Message: s.Quoted.Bytes(), Signature: tpm2.Marshal(s.Signature)}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	request := must(enroll.Encode(r))(t)
	if !naive(t, request) {
		t.Error("the attack does not work on the naive CA")
	}
	_, err = c.Challenge(request)
	refused(t, err, "quote", "endorsement hierarchy")
}

// A host with a bad TPM shows another's endorsement key.
func TestAttackOthersEndorsement(t *testing.T) {
	c := newCA(t, Options{})
	good := host(t, swtpmtest.Start(t), "good", t.TempDir())
	bad := host(t, swtpmtest.Start(t), "good", t.TempDir())
	pinHost(t, c, good)
	own := bad.EK
	bad.EK = good.EK
	request := must(bad.Request(t.Context(), ""))(t)
	if !naive(t, request) {
		t.Error("the attack does not work on the naive CA")
	}
	challenge := must(c.Challenge(request))(t)
	if _, err := bad.Answer(t.Context(), challenge); err == nil {
		t.Error("answered with another TPM's endorsement key")
	}
	var ch enroll.Challenge
	if err := enroll.Decode(challenge, &ch); err != nil {
		t.Fatal(err)
	}
	if _, err := bad.AK.ActivateWith(t.Context(), own, ch.Credential, ch.Secret); err == nil {
		t.Error("the wrong endorsement key opened the credential")
	}
	// The good TPM does not open it for the bad key either.
	if _, err := good.AK.ActivateWith(t.Context(), good.EK, ch.Credential, ch.Secret); err == nil {
		t.Error("opened for another attestation key")
	}
}

// A challenge is answered once, in time, by the key it was made for.
func TestAttackReplay(t *testing.T) {
	c := newCA(t, Options{})
	h := host(t, swtpmtest.Start(t), "web1", t.TempDir())
	pinHost(t, c, h)
	challenge := must(c.Challenge(must(h.Request(t.Context(), ""))(t)))(t)
	answer := must(h.Answer(t.Context(), challenge))(t)
	var a enroll.Answer
	if err := enroll.Decode(answer, &a); err != nil {
		t.Fatal(err)
	}
	file := c.path(openDir, hex.EncodeToString(a.ID))
	kept := must(os.ReadFile(file))(t)
	must(c.Issue(answer))(t)
	_, err := c.Issue(answer)
	refused(t, err, "challenge", "no such challenge")
	if err := os.WriteFile(file, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = c.Issue(answer)
	refused(t, err, "clock", "went back")
	// The naive CA forgets what was: the very same bytes work again. (That it was
	// certified must be forgotten too: a replayed quote's clock is behind.)
	putBack := func() {
		t.Helper()
		for _, r := range must(c.Records())(t) {
			if err := os.Remove(c.path(issuedDir, r.Serial)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, kept, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	putBack()
	must(c.Issue(answer))(t)
	// Late: what worked just now does not work after the challenge's time.
	putBack()
	now := time.Now()
	c.at(now.Add(11 * time.Minute))
	_, err = c.Issue(answer)
	refused(t, err, "challenge", "expired")
	c.at(now)
	// The secret without the quote, or the quote of another challenge.
	putBack()
	old := a.Quote
	var r enroll.Request
	if err := enroll.Decode(must(h.Request(t.Context(), ""))(t), &r); err != nil {
		t.Fatal(err)
	}
	a.Quote = r.Quote
	_, err = c.Issue(must(enroll.Encode(&a))(t))
	refused(t, err, "quote", "not about this challenge")
	a.Quote = old
	// Every wrong answer uses the challenge up.
	_, err = c.Issue(must(enroll.Encode(&a))(t))
	refused(t, err, "challenge", "no such challenge")
	// Another CA's challenge is none of ours.
	_, err = newCA(t, Options{}).Issue(answer)
	refused(t, err, "challenge", "no such challenge")
}

// A copied software TPM is the same TPM to anybody who asks it. What shows: a
// second name, and counters that went back. What does not: a copy that takes the
// original's place and goes on from where that stood.
func TestAttackClone(t *testing.T) {
	c := newCA(t, Options{})
	x, dir := swtpmtest.Start(t), filepath.Join(t.TempDir(), "ak")
	h := host(t, x, "web1", dir)
	pinHost(t, c, h)
	enrolled(t, c, h)
	x.Kill()
	copies := t.TempDir()
	copyOf := func(from, to string) {
		t.Helper()
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	copyOf(x.State, filepath.Join(copies, "state"))
	copyOf(dir, filepath.Join(copies, "ak"))
	for range 2 {
		x.Restart() // the original's counters go on
	}
	y := swtpmtest.Start(t)
	y.Kill()
	if err := os.RemoveAll(y.State); err != nil {
		t.Fatal(err)
	}
	copyOf(filepath.Join(copies, "state"), y.State)
	y.Restart()
	clone := host(t, y, "web2", filepath.Join(copies, "ak"))
	if !bytes.Equal(clone.AK.Name(), h.AK.Name()) {
		t.Fatal("the copy has another key: this test tests nothing")
	}
	request := must(clone.Request(t.Context(), ""))(t)
	if !naive(t, request) {
		t.Error("the copy does not pass the naive CA")
	}
	_, err := c.Challenge(request)
	refused(t, err, "name", "copies of each other")
	// Under the same name, before the original shows up again: not told apart.
	clone.Name = "web1"
	enrolled(t, c, clone)
	// The original is further on: fine. After that the copy is behind.
	enrolled(t, c, h)
	_, err = c.Challenge(must(clone.Request(t.Context(), ""))(t))
	refused(t, err, "clock", "copied or put back")
}

// A host that asks and asks keeps itself waiting and nobody else; what it left
// goes away by itself.
func TestAttackManyChallenges(t *testing.T) {
	c := newCA(t, Options{})
	bad, good := host(t, swtpmtest.Start(t), "bad", t.TempDir()), host(t, swtpmtest.Start(t), "good", t.TempDir())
	pinHost(t, c, bad)
	pinHost(t, c, good)
	request := must(bad.Request(t.Context(), ""))(t)
	for range maxOpenOfOne {
		must(c.Challenge(request))(t)
	}
	_, err := c.Challenge(request)
	refused(t, err, "challenge", "hint: answer one")
	enrolled(t, c, good)
	old := time.Now().Add(-time.Hour)
	for _, e := range must(os.ReadDir(c.path(openDir)))(t) {
		if err := os.Chtimes(c.path(openDir, e.Name()), old, old); err != nil {
			t.Fatal(err)
		}
	}
	enrolled(t, c, bad)
	if left := must(os.ReadDir(c.path(openDir)))(t); len(left) != 0 {
		t.Errorf("%d challenges are left", len(left))
	}
}
