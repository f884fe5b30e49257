package reference

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sealift/sealift/internal/owned"
)

// TrustDir is where a host's trusted keys are: NAME.pem, one public key each.
const TrustDir = "/etc/sealift/trust.d"

const maxKeyFile = 64 << 10

// Key is a trusted public key.
type Key struct {
	// Name is the file's name without .pem: what policies say.
	Name string
	// ID is the SHA-256 of the SubjectPublicKeyInfo in hex: DSSE's keyid.
	ID     string
	Public crypto.PublicKey
}

var keyNameShape = regexp.MustCompile(`^[A-Za-z0-9][-._A-Za-z0-9]{0,127}$`)

// LoadTrust reads every *.pem of dir, in order of name. A directory that does
// not exist trusts nobody. A file that cannot be taken is an error, and so is
// one key under two names: policies speak of keys by name.
func LoadTrust(dir string) ([]Key, error) {
	d, err := owned.OpenDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trusted keys: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("trusted keys: %w", err)
	}
	slices.Sort(names)
	var keys []Key
	for _, file := range names {
		name, ok := strings.CutSuffix(file, ".pem")
		if !ok || strings.HasPrefix(file, ".") {
			continue
		}
		path := filepath.Join(dir, file)
		if !keyNameShape.MatchString(name) {
			return nil, &owned.Error{Path: path, Message: "its name cannot be said in a policy", Hint: "use letters, digits, and - . _ after the first"}
		}
		f, err := owned.OpenIn(d, file, path)
		if err != nil {
			return nil, fmt.Errorf("trusted key: %w", err)
		}
		k, err := readKey(f, name)
		if err != nil {
			return nil, fmt.Errorf("trusted key %s: %w", path, err)
		}
		if i := slices.IndexFunc(keys, func(o Key) bool { return o.ID == k.ID }); i >= 0 {
			return nil, &owned.Error{Path: path, Message: "is the key " + keys[i].Name + ".pem too", Hint: "keep one of the two"}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// LoadKey reads one public key file outside the trust directory.
func LoadKey(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("public key: %w", err)
	}
	k, err := readKey(f, strings.TrimSuffix(filepath.Base(path), ".pem"))
	if err != nil {
		return Key{}, fmt.Errorf("public key %s: %w", path, err)
	}
	return k, nil
}

func readKey(f *os.File, name string) (Key, error) {
	defer f.Close()
	data, err := owned.Read(f, maxKeyFile)
	if err != nil {
		return Key{}, err
	}
	return ParseKey(name, data)
}

// ParseKey reads one PEM public key: Ed25519, or ECDSA on P-256, P-384 or
// P-521.
func ParseKey(name string, data []byte) (Key, error) {
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return Key{}, errors.New("not PEM\nhint: openssl pkey -in PRIVATE.pem -pubout")
	case strings.Contains(block.Type, "PRIVATE"):
		return Key{}, errors.New("is a private key\nhint: keep it off this host; put the public one here: openssl pkey -in PRIVATE.pem -pubout")
	case block.Type != "PUBLIC KEY":
		return Key{}, fmt.Errorf("PEM type %q, wanted PUBLIC KEY", block.Type)
	case strings.TrimSpace(string(rest)) != "":
		return Key{}, errors.New("something follows the key\nhint: one key a file")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Key{}, err
	}
	if err := supported(pub); err != nil {
		return Key{}, err
	}
	id, err := keyID(pub)
	if err != nil {
		return Key{}, err
	}
	return Key{Name: name, ID: id, Public: pub}, nil
}

func supported(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return nil
		}
	}
	return fmt.Errorf("key type %T is not supported\nhint: Ed25519, or ECDSA on P-256, P-384 or P-521", pub)
}

func keyID(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// curveHash is the digest that ECDSA signatures on a curve are over.
func curveHash(c elliptic.Curve) crypto.Hash {
	switch c {
	case elliptic.P384():
		return crypto.SHA384
	case elliptic.P521():
		return crypto.SHA512
	}
	return crypto.SHA256
}

// verify reports whether sig is k's signature of message.
func (k Key) verify(message, sig []byte) bool {
	switch pub := k.Public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(pub, message, sig)
	case *ecdsa.PublicKey:
		h := curveHash(pub.Curve).New()
		h.Write(message)
		return ecdsa.VerifyASN1(pub, h.Sum(nil), sig)
	}
	return false
}
