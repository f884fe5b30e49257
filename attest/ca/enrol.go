package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/internal/durable"
)

// Lengths of the challenge's parts in bytes.
const (
	// idSize is that of the key's mark, which lets a key's challenges be counted,
	// and of a random part.
	markSize   = 8
	idSize     = markSize + 16
	nonceSize  = 32
	secretSize = 32 // at most the endorsement key's name hash
)

// opened is challenges/ID: a challenge that was not answered yet.
type opened struct {
	Challenge enroll.Challenge `json:"challenge"`
	Request   enroll.Request   `json:"request"`
	// Secret is SHA-256 of what the credential holds.
	Secret []byte `json:"secret"`
	// Token is the name of the token that admitted the host; empty where a person
	// did, or a pin, or an earlier certificate.
	Token string `json:"token"`
}

// Challenge examines a request and makes a challenge that only the TPM with
// both keys can answer. Whoever calls it has admitted the host. A no is a
// *Refusal.
func (c *CA) Challenge(request []byte) ([]byte, error) {
	r, records, err := c.asked(request)
	if err != nil {
		return nil, err
	}
	x, err := c.examine(r, records)
	if err != nil {
		return nil, err
	}
	return c.challenge(x, "")
}

// asked decodes a request, and reads what it will be held against.
func (c *CA) asked(request []byte) (*enroll.Request, []*Record, error) {
	r := &enroll.Request{}
	if err := enroll.Decode(request, r); err != nil {
		return nil, nil, &Refusal{Code: "request", Host: "a host", Message: err.Error()}
	}
	records, err := c.Records()
	return r, records, err
}

func (c *CA) challenge(x *examined, token string) ([]byte, error) {
	r := *x.request
	r.Token = "" // it admits once, and is not to be found here
	o := opened{Request: r, Token: token}
	random := make([]byte, idSize+nonceSize+secretSize)
	if _, err := rand.Read(random); err != nil {
		return nil, fmt.Errorf("CA %s: challenge: %w", c.dir, err)
	}
	mark := sha256.Sum256(x.ak.Name())
	copy(random, mark[:markSize])
	id, nonce, secret := random[:idSize], random[idSize:idSize+nonceSize], random[idSize+nonceSize:]
	sum := sha256.Sum256(secret)
	o.Secret = sum[:]
	o.Challenge = enroll.Challenge{
		Version: enroll.Version, ID: id, Authority: c.Name(), Host: r.Host, AK: x.ak.Name(), EK: x.ek.Name(), Nonce: nonce,
		Expires: c.now().Add(time.Duration(c.config.Challenge)).Unix(),
	}
	area := x.ek.Area()
	k, err := tpm2.ImportEncapsulationKey(&area)
	if err == nil {
		o.Challenge.Credential, o.Challenge.Secret, err = tpm2.CreateCredential(rand.Reader, k, x.ak.Name(), secret)
	}
	if err != nil {
		return nil, &Refusal{Code: "ek", Host: r.Host, Message: fmt.Sprintf("no credential can be made for its endorsement key: %v", err)}
	}
	b, err := enroll.Encode(&o.Challenge)
	if err != nil {
		return nil, err
	}
	err = c.locked(func() error {
		if err := c.sweep(hex.EncodeToString(id[:markSize]), r.Host); err != nil {
			return err
		}
		return write(c.path(openDir, hex.EncodeToString(id)), o, durable.Create)
	})
	var no *Refusal
	if err != nil && !errors.As(err, &no) {
		err = fmt.Errorf("CA %s: challenge: %w", c.dir, err)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// maxOpen bounds how many challenges wait for an answer: of one key, so that no
// host keeps others from enrolling, and of all.
const maxOpenOfOne, maxOpen = 8, 4096

// sweep removes challenges whose time is over, and refuses one more for the key
// with the mark where too many are left. The caller has the lock.
func (c *CA) sweep(mark, host string) error {
	list, err := os.ReadDir(c.path(openDir))
	if err != nil {
		return err
	}
	left, own := 0, 0
	for _, e := range list {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		// By its file's age: no answer is believed after Expires anyway.
		if age := time.Since(info.ModTime()); age > 2*time.Duration(c.config.Challenge)+time.Minute {
			if err := os.Remove(c.path(openDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		left++
		if strings.HasPrefix(e.Name(), mark) {
			own++
		}
	}
	if own >= maxOpenOfOne || left >= maxOpen {
		return &Refusal{Code: "challenge", Host: host, Message: fmt.Sprintf("%d challenges wait for its answer, %d for anybody's", own, left),
			Hint: "answer one; they end by themselves some time after " + time.Duration(c.config.Challenge).String()}
	}
	return nil
}

// Issue checks the answer to a challenge of this CA and returns the certificate
// as an enroll.Result. A challenge is used up by its first answer, right or wrong.
// A no is a *Refusal.
func (c *CA) Issue(answer []byte) ([]byte, error) {
	var a enroll.Answer
	if err := enroll.Decode(answer, &a); err != nil {
		return nil, &Refusal{Code: "answer", Host: "a host", Message: err.Error()}
	}
	var result []byte
	err := c.locked(func() (err error) {
		result, err = c.issue(&a)
		return err
	})
	return result, err
}

func (c *CA) issue(a *enroll.Answer) ([]byte, error) {
	o, err := c.take(a.ID)
	if err != nil {
		return nil, err
	}
	no := func(code, format string, args ...any) ([]byte, error) {
		return nil, &Refusal{Code: code, Host: o.Request.Host, Message: fmt.Sprintf(format, args...), Hint: "make a new request"}
	}
	if c.now().Unix() > o.Challenge.Expires {
		return no("challenge", "the challenge expired at %s", time.Unix(o.Challenge.Expires, 0).UTC().Format(time.RFC3339))
	}
	if sum := sha256.Sum256(a.Secret); subtle.ConstantTimeCompare(sum[:], o.Secret) != 1 {
		return no("challenge", "the challenge was not opened: the TPM with this endorsement key does not hold the attestation key")
	}
	// Again, and from the start: a name may have been taken, a pin or a root removed.
	records, err := c.Records()
	if err != nil {
		return nil, err
	}
	x, err := c.examine(&o.Request, records)
	if err != nil {
		return nil, err
	}
	q, err := x.ak.CheckQuote(a.Quote.Message, a.Quote.Signature)
	if err != nil {
		return no("quote", "%v", err)
	}
	if want := o.Challenge.Qualification(a.Secret); !bytes.Equal(q.ExtraData.Buffer, want[:]) {
		return no("quote", "quote: is not about this challenge")
	}
	x.clock = q.ClockInfo
	if err := x.free(records); err != nil {
		return nil, err
	}
	if o.Token != "" {
		if err := durable.Remove(c.path(tokensDir, o.Token)); err != nil {
			return no("admission", "its token was used meanwhile")
		}
	}
	return c.sign(x, records)
}

// take removes a challenge and returns it: whoever takes it first is the only
// one.
func (c *CA) take(id []byte) (*opened, error) {
	none := &Refusal{Code: "challenge", Host: "a host", Message: "there is no such challenge: it was answered, or expired, or is another CA's", Hint: "make a new request"}
	if len(id) != idSize {
		return nil, none
	}
	path := c.path(openDir, hex.EncodeToString(id))
	o := &opened{}
	err := read(path, o)
	if err == nil {
		err = durable.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, none
	}
	if err != nil {
		return nil, fmt.Errorf("CA %s: challenge: %w", c.dir, err)
	}
	return o, nil
}

// sign makes the certificate and puts it on record before it returns it.
func (c *CA) sign(x *examined, records []*Record) ([]byte, error) {
	wrap := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("CA %s: certificate of %s: %w", c.dir, x.request.Host, err)
	}
	now := c.now().Truncate(time.Second)
	from, to := now.Add(-5*time.Minute), now.Add(time.Duration(c.config.Certificate))
	if from.Before(c.cert.NotBefore) {
		from = c.cert.NotBefore
	}
	if to.After(c.cert.NotAfter) {
		to = c.cert.NotAfter
	}
	if !to.After(now) {
		return wrap(errors.New("the CA's own certificate has expired\nhint: sealift ca init makes another CA"))
	}
	a := &certificate.AK{Kind: c.kind, Host: x.request.Host, Class: x.class, Name: x.ak.Name(), EK: x.fingerprint}
	template, err := a.Template(from, to)
	if err != nil {
		return wrap(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, x.ak.Key(), c.key)
	if err != nil {
		return wrap(err)
	}
	list, err := c.list(records)
	if err != nil {
		return nil, err
	}
	result, err := enroll.Encode(&enroll.Result{Version: enroll.Version, Certificate: der, Authority: c.cert.Raw, Revocation: list})
	if err != nil {
		return wrap(err)
	}
	r := &Record{
		Serial: serialText(template.SerialNumber), Host: a.Host, Class: a.Class, AK: a.Name, EK: a.EK[:],
		NotBefore: from.Unix(), NotAfter: to.Unix(), Certificate: der, ResetCount: x.clock.ResetCount, Clock: x.clock.Clock,
	}
	if err := write(c.path(issuedDir, r.Serial), r, durable.Create); err != nil {
		return wrap(err)
	}
	return result, nil
}

// token is tokens/SHA256: a word that admits one host, once.
type token struct {
	Host    string `json:"host"`
	Expires int64  `json:"expires"`
}

// NewToken returns a word that admits the host at the CA's network side, once,
// for a time. Only its hash is kept.
func (c *CA) NewToken(host string, life time.Duration) (string, error) {
	if err := certificate.CheckHost(host); err != nil {
		return "", err
	}
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("CA %s: token: %w", c.dir, err)
	}
	word := hex.EncodeToString(b)
	if err := write(c.path(tokensDir, tokenName(word)), token{host, c.now().Add(life).Unix()}, durable.Create); err != nil {
		return "", fmt.Errorf("CA %s: token: %w", c.dir, err)
	}
	return word, nil
}

func tokenName(word string) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(word)))
	return hex.EncodeToString(sum[:])
}

// Admit is Challenge for a host that nobody has looked at: it must bring a token
// for its name, have a pinned endorsement key, or hold a certificate here that is
// not revoked.
func (c *CA) Admit(request []byte) ([]byte, error) {
	r, records, err := c.asked(request)
	if err != nil {
		return nil, err
	}
	no := &Refusal{Code: "admission", Host: r.Host, Message: "nobody has admitted it here", Hint: "on the CA: sealift ca token " + r.Host + ", or sealift ca pin-ek; then sealift enroll --token"}
	if r.Token != "" {
		name := tokenName(r.Token)
		var t token
		err := read(c.path(tokensDir, name), &t)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("CA %s: token: %w", c.dir, err)
		case err != nil, t.Host != r.Host, c.now().Unix() > t.Expires:
			no.Message = "its token is not valid: used, expired, or for another name"
			return nil, no
		}
		x, err := c.examine(r, records)
		if err != nil {
			return nil, err
		}
		return c.challenge(x, name)
	}
	x, err := c.examine(r, records)
	if err != nil {
		return nil, err
	}
	known := x.pin != nil
	for _, rec := range records {
		switch {
		case !bytes.Equal(rec.EK, x.fingerprint[:]):
		case rec.Revoked != 0:
			// Whom a person has sent away needs a person's word to come back.
			no.Message = "a certificate of this TPM was revoked"
			return nil, no
		case bytes.Equal(rec.AK, x.ak.Name()):
			known = true
		}
	}
	if !known {
		return nil, no
	}
	return c.challenge(x, "")
}
