// Package ca is the AK-CA: it looks at a host's attestation and endorsement
// keys, has the host's TPM prove that it holds both, and certifies the first with
// the class it found for the second. A CA is a directory; several processes may
// work on it at once.
//
// Every change of its state is one file, written whole or not at all. A
// certificate is on record before anybody is given it.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/internal/durable"
)

// Names in a CA's directory.
const (
	keyFile    = "ca.key"
	certFile   = "ca.pem"
	configFile = "ca.toml"
	lockFile   = "lock"
	listFile   = "ca.crl"
	numberFile = "crl.number"
	rootsDir   = "roots"
	pinsDir    = "pins"
	tokensDir  = "tokens"
	openDir    = "challenges"
	issuedDir  = "issued"
)

// Options are what Init can be told; zero values are the defaults.
type Options struct {
	// Name stands in all certificates.
	Name string
	// Kind is what the CA certifies; Platform by default.
	Kind certificate.Kind
	// KeyType is ecdsa-p256, ecdsa-p384 or ed25519.
	KeyType string
	// Lifetime is the CA's own; 10 years by default.
	Lifetime time.Duration
	Config   Config
}

// Config is ca.toml: how long things last.
type Config struct {
	Certificate Duration `toml:"certificate_lifetime"`
	Revocation  Duration `toml:"revocation_lifetime"`
	Challenge   Duration `toml:"challenge_lifetime"`
}

// Duration is a time.Duration written as Go writes it.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (c *Config) defaults() {
	for _, x := range []struct {
		d *Duration
		v time.Duration
	}{{&c.Certificate, 30 * 24 * time.Hour}, {&c.Revocation, 7 * 24 * time.Hour}, {&c.Challenge, 10 * time.Minute}} {
		if *x.d == 0 {
			*x.d = Duration(x.v)
		}
	}
}

func (c *Config) positive() bool { return c.Certificate > 0 && c.Revocation > 0 && c.Challenge > 0 }

// maxName is the bound of a common name (X.520, ub-common-name).
const maxName = 64

// checkName wants a name that looks the same wherever it is shown.
func checkName(name string) error {
	wrong := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	if len(name) > maxName || strings.ContainsFunc(name, wrong) || strings.TrimSpace(name) != name {
		return fmt.Errorf("name %q: must be at most %d bytes that can be printed", name, maxName)
	}
	return nil
}

// CA is an open CA. It is safe for concurrent use.
type CA struct {
	dir    string
	config Config
	key    crypto.Signer
	cert   *x509.Certificate
	kind   certificate.Kind
	// now is the clock; tests set it.
	now func() time.Time

	records cache
}

// Init makes a CA in dir, which must not exist or be empty. Killed at any step
// it leaves nothing at dir.
func Init(dir string, o Options) (*CA, error) {
	dir = filepath.Clean(dir)
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return nil, fmt.Errorf("CA %s: is there already\nhint: choose another directory; a CA is not overwritten", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if o.Name == "" {
		return nil, fmt.Errorf("CA %s: has no name\nhint: --name says whose certificates these are", dir)
	}
	if o.Kind == "" {
		o.Kind = certificate.Platform
	}
	if o.Lifetime == 0 {
		o.Lifetime = 10 * 365 * 24 * time.Hour
	}
	o.Config.defaults()
	if o.Lifetime < 0 || !o.Config.positive() {
		return nil, fmt.Errorf("CA %s: lifetimes must be more than zero", dir)
	}
	if err := checkName(o.Name); err != nil {
		return nil, fmt.Errorf("CA %s: %w", dir, err)
	}
	// To replace the directory that somebody stands in would leave him nowhere.
	if dir == "." {
		return nil, errors.New("CA .: the working directory is not made a CA\nhint: name a directory in it, or beside it, that is not there yet: sealift ca init --name NAME ./ca")
	}
	files, err := newFiles(o)
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", dir, err)
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	tmp, err := os.MkdirTemp(parent, ".new-ca-")
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	err = fill(tmp, files)
	if err == nil {
		err = os.Rename(tmp, dir)
	}
	if err == nil {
		err = durable.Sync(parent)
	}
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", dir, errors.Join(err, os.RemoveAll(tmp)))
	}
	return Open(dir)
}

func fill(dir string, files map[string][]byte) error {
	for _, d := range append([]string{pinsDir, tokensDir, openDir, issuedDir}, classDirs()...) {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	for name, data := range files {
		if err := durable.Write(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func newFiles(o Options) (map[string][]byte, error) {
	key, err := newKey(o.KeyType)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	now := time.Now().Truncate(time.Second)
	template, err := certificate.AuthorityTemplate(o.Name, o.Kind, now, now.Add(o.Lifetime))
	if err != nil {
		return nil, err
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	config, err := toml.Marshal(o.Config)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		keyFile:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		certFile:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		configFile: append([]byte("# How long what this CA signs is good for.\n"), config...),
		lockFile:   nil,
	}, nil
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "", "ecdsa-p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ed25519":
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	}
	return nil, fmt.Errorf("key type %q is none of ecdsa-p256, ecdsa-p384 and ed25519", kind)
}

// Open opens the CA in dir.
func Open(dir string) (*CA, error) {
	c := &CA{dir: dir, now: time.Now}
	wrap := func(err error) (*CA, error) {
		return nil, fmt.Errorf("CA %s: %w\nhint: sealift ca init makes one", dir, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return wrap(err)
	}
	if err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&c.config); err != nil {
		return nil, fmt.Errorf("CA %s: %s: %w", dir, configFile, err)
	}
	c.config.defaults()
	if !c.config.positive() {
		return nil, fmt.Errorf("CA %s: %s: lifetimes must be more than zero", dir, configFile)
	}
	der, err := readPEM(filepath.Join(dir, certFile), "CERTIFICATE")
	if err != nil {
		return wrap(err)
	}
	if c.cert, c.kind, err = certificate.ParseAuthority(der); err != nil {
		return wrap(err)
	}
	if der, err = readPEM(filepath.Join(dir, keyFile), "PRIVATE KEY"); err != nil {
		return wrap(err)
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return wrap(err)
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return wrap(fmt.Errorf("%s: a %T cannot sign", keyFile, k))
	}
	if p, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(c.cert.PublicKey) {
		return wrap(fmt.Errorf("%s and %s do not belong together", keyFile, certFile))
	}
	c.key = signer
	return c, nil
}

func readPEM(path, kind string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: holds no %s in PEM", path, kind)
	}
	return block.Bytes, nil
}

// Certificate is the CA's own.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// Kind is what the CA certifies.
func (c *CA) Kind() certificate.Kind { return c.kind }

// Name is the CA's name.
func (c *CA) Name() string { return c.cert.Subject.CommonName }

// path is a file of the CA's.
func (c *CA) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// locked runs f while no other process, and no other goroutine, changes the CA.
func (c *CA) locked(f func() error) error {
	l, err := os.OpenFile(c.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("CA %s: %w", c.dir, err)
	}
	defer l.Close()
	for {
		err = unix.Flock(int(l.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("CA %s: lock: %w", c.dir, err)
	}
	return f()
}

// Refusal is the CA's no. Nothing was signed.
type Refusal struct {
	// Code is stable: "ak", "ek", "quote", "name", "challenge", "clock", "admission".
	Code    string
	Host    string
	Message string
	Hint    string
}

func (e *Refusal) Error() string {
	s := "enrolment of " + e.Host + ": " + e.Message
	if e.Hint != "" {
		s += "\nhint: " + e.Hint
	}
	return s
}
