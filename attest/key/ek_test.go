package key_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// A TPM without certificates gives its ECC key. A credential made in software
// opens in the TPM, for this key and no other.
func TestActivate(t *testing.T) {
	x := swtpmtest.Start(t)
	d := device(t, x.Device())
	a := open(t, d, t.TempDir())
	e, err := key.EndorsementKey(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if e.Certificate != nil || e.Chain != nil || e.Problem != "" {
		t.Errorf("certificate of an unprovisioned TPM: %+v", e)
	}
	credential, secret := credential(t, e, a.Name(), []byte("to be opened"))
	got, err := a.Activate(t.Context(), credential, secret)
	if err != nil || string(got) != "to be opened" {
		t.Fatalf("%q, %v", got, err)
	}
	other := open(t, d, t.TempDir())
	if got, err := other.Activate(t.Context(), credential, secret); err == nil {
		t.Errorf("another attestation key opened %q", got)
	}
	y := device(t, swtpmtest.Start(t).Device())
	if got, err := open(t, y, t.TempDir()).Activate(t.Context(), credential, secret); err == nil {
		t.Errorf("another TPM opened %q", got)
	}
	if left := loaded(t, x); strings.TrimSpace(left) != "" {
		t.Errorf("left in the TPM: %s", left)
	}
}

func credential(t *testing.T, e *key.EK, name, value []byte) (credential, secret []byte) {
	t.Helper()
	p, err := key.ParsePublic(e.Public)
	if err != nil {
		t.Fatal(err)
	}
	area := p.Area()
	k, err := tpm2.ImportEncapsulationKey(&area)
	if err != nil {
		t.Fatal(err)
	}
	credential, secret, err = tpm2.CreateCredential(rand.Reader, k, name, value)
	if err != nil {
		t.Fatal(err)
	}
	return credential, secret
}

// A TPM that a maker provisioned gives the key its certificate is for.
func TestManufactured(t *testing.T) {
	ca := t.TempDir()
	x := swtpmtest.Manufacture(t, ca)
	d := device(t, x.Device())
	e, err := key.EndorsementKey(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if e.Certificate == nil || e.Problem != "" {
		t.Fatalf("no certificate: %s", e.Problem)
	}
	// openssl agrees that the chain leads to the root.
	file := filepath.Join(t.TempDir(), "ek.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate}), 0o600); err != nil {
		t.Fatal(err)
	}
	swtpmtest.Tool(t, nil, "openssl", "verify", "-ignore_critical", "-CAfile", filepath.Join(ca, swtpmtest.RootFile), "-untrusted", filepath.Join(ca, swtpmtest.IssuerFile), file)
	a := open(t, d, t.TempDir())
	credential, secret := credential(t, e, a.Name(), []byte("RSA this time"))
	if got, err := a.ActivateWith(t.Context(), e, credential, secret); err != nil || string(got) != "RSA this time" {
		t.Fatalf("%q, %v", got, err)
	}
	if left := loaded(t, x); strings.TrimSpace(left) != "" {
		t.Errorf("left in the TPM: %s", left)
	}
}

// tpm2_makecredential's output opens through our key, and a credential of ours
// opens with tpm2_activatecredential.
func TestToolsMakeAndActivate(t *testing.T) {
	for _, algorithm := range []string{"ecc", "rsa"} {
		t.Run(algorithm, func(t *testing.T) { makeAndActivate(t, algorithm) })
	}
}

func makeAndActivate(t *testing.T, algorithm string) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte) string {
		if err := os.WriteFile(at(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	x := swtpmtest.Start(t)
	if algorithm == "rsa" {
		x = swtpmtest.Manufacture(t, t.TempDir())
	}
	d := device(t, x.Device())
	a := open(t, d, t.TempDir())
	e, err := key.EndorsementKey(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	p, err := key.ParsePublic(e.Public)
	if err != nil {
		t.Fatal(err)
	}
	public := write("ek.tss", tpm2.Marshal(tpm2.New2B(p.Area())))
	// Theirs, opened by us. Their file: magic, version, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET.
	swtpmtest.Tool(t, nil, "tpm2_makecredential", "-Q", "-T", "none", "-u", public, "-s", write("plain", []byte("their secret")),
		"-n", hexOf(a.Name()), "-o", at("blob"))
	blob, err := os.ReadFile(at("blob"))
	if err != nil {
		t.Fatal(err)
	}
	id, rest := sized(t, blob[8:])
	secret, rest := sized(t, rest)
	if len(rest) != 0 || !bytes.HasPrefix(blob, []byte{0xba, 0xdc, 0xc0, 0xde}) {
		t.Fatalf("tpm2_makecredential wrote %x", blob)
	}
	if got, err := a.ActivateWith(t.Context(), e, id, secret); err != nil || string(got) != "their secret" {
		t.Errorf("%q, %v", got, err)
	}
	// Ours, opened by them: for a key of theirs, since ours is made from a seed.
	swtpmtest.Tool(t, nil, "tpm2_createek", "-Q", "-T", x.TCTI(), "-G", algorithm, "-c", at("ek.ctx"), "-u", at("theirs.pub"))
	flush := func() { swtpmtest.Tool(t, nil, "tpm2_flushcontext", "-T", x.TCTI(), "-t") }
	flush()
	if theirs, err := os.ReadFile(at("theirs.pub")); err != nil || !bytes.Equal(theirs, tpm2.Marshal(tpm2.New2B(p.Area()))) {
		t.Fatalf("tpm2_createek makes %x, %v", theirs, err)
	}
	swtpmtest.Tool(t, nil, "tpm2_createak", "-Q", "-T", x.TCTI(), "-C", at("ek.ctx"), "-c", at("ak.ctx"), "-G", "ecc", "-g", "sha256", "-s", "ecdsa", "-n", at("ak.name"))
	flush()
	name, err := os.ReadFile(at("ak.name"))
	if err != nil {
		t.Fatal(err)
	}
	credential, ours := credential(t, e, name, []byte("our secret"))
	b := []byte{0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1}
	b = append(b, tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: credential})...)
	b = append(b, tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: ours})...)
	swtpmtest.Tool(t, nil, "tpm2_startauthsession", "-T", x.TCTI(), "--policy-session", "-S", at("session"))
	swtpmtest.Tool(t, nil, "tpm2_policysecret", "-Q", "-T", x.TCTI(), "-S", at("session"), "-c", "e")
	swtpmtest.Tool(t, nil, "tpm2_activatecredential", "-Q", "-T", x.TCTI(), "-c", at("ak.ctx"), "-C", at("ek.ctx"), "-i", write("ours", b), "-o", at("opened"), "-P", "session:"+at("session"))
	if got, err := os.ReadFile(at("opened")); err != nil || string(got) != "our secret" {
		t.Errorf("tpm2_activatecredential gave %q, %v", got, err)
	}
}

// sized cuts off one TPM2B.
func sized(t *testing.T, b []byte) (content, rest []byte) {
	t.Helper()
	if len(b) < 2 || len(b) < 2+int(b[0])<<8+int(b[1]) {
		t.Fatalf("%x is no sized buffer", b)
	}
	n := int(b[0])<<8 + int(b[1])
	return b[2 : 2+n], b[2+n:]
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// A maker may have its own template and nonce, and its chain in the TPM. A
// certificate for another key is not shown as this one's. (tpm2_createek is no
// witness here: it copies the address of the nonce, not the nonce.)
func TestMakersTemplateAndChain(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	x := swtpmtest.Start(t)
	put := func(index string, data []byte) {
		t.Helper()
		if err := os.WriteFile(at("nv"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		// As makers define them: readable with the index's own, empty, authorisation.
		swtpmtest.Tool(t, nil, "tpm2_nvdefine", "-Q", "-T", x.TCTI(), index, "-C", "p", "-s", strconv.Itoa(len(data)), "-a", "ppread|ppwrite|ownerread|authread|no_da|platformcreate")
		swtpmtest.Tool(t, nil, "tpm2_nvwrite", "-Q", "-T", x.TCTI(), index, "-C", "p", "-i", at("nv"))
	}
	put("0x1c0000b", []byte("a nonce of the maker's"))
	put("0x1c0000c", tpm2.Marshal(tpm2.ECCEKTemplate))
	d := device(t, x.Device())
	template := tpm2.ECCEKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: []byte("a nonce of the maker's\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
		Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
	})
	var raw []byte
	err := d.(tpm.Commander).Command(t.Context(), "maker's key", 0, func(l transport.TPM) error {
		r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)}.Execute(l)
		if err == nil {
			raw = r.OutPublic.Bytes()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := key.ParsePublic(raw)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(public any, name string) []byte {
		t.Helper()
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, c, c, public, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	leaf, between, root := sign(p.Key(), "leaf"), sign(signer.Public(), "between"), sign(signer.Public(), "root")
	put("0x1c0000a", append(slices.Clone(leaf), make([]byte, 64)...)) // padded, as some do
	chain := append(slices.Clone(between), root...)
	put("0x1c00100", chain[:200]) // one after the other, over two indices
	put("0x1c00101", chain[200:])
	e, err := key.EndorsementKey(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.Public, p.Public()) || !bytes.Equal(e.Certificate, leaf) || len(e.Chain) != 2 || !bytes.Equal(e.Chain[0], between) || !bytes.Equal(e.Chain[1], root) {
		t.Errorf("%+v", e)
	}
	swtpmtest.Tool(t, nil, "tpm2_nvundefine", "-T", x.TCTI(), "-C", "p", "0x1c0000a")
	put("0x1c0000a", sign(signer.Public(), "other"))
	if e, err = key.EndorsementKey(t.Context(), d); err != nil || e.Certificate != nil || !strings.Contains(e.Problem, "0x01c0000a is for another key") {
		t.Errorf("%+v, %v", e, err)
	}
}
