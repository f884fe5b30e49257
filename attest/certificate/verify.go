package certificate

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"time"
)

// Codes of Error.
const (
	Malformed         = "certificate-malformed"
	Untrusted         = "certificate-untrusted"
	WrongKind         = "certificate-kind"
	Expired           = "certificate-expired"
	Early             = "certificate-not-yet-valid"
	Revoked           = "certificate-revoked"
	RevocationMissing = "revocation-missing"
	RevocationStale   = "revocation-stale"
)

// Error says why a certificate is worth nothing.
type Error struct {
	Code    string
	Subject string
	Message string
	Hint    string
}

func (e *Error) Error() string {
	s := "certificate"
	if e.Subject != "" {
		s += " of " + e.Subject
	}
	s += ": " + e.Message
	if e.Hint != "" {
		s += "\nhint: " + e.Hint
	}
	return s
}

// Options are what a verifier trusts.
type Options struct {
	// CA is the trusted CA's certificate, DER. It must have signed the certificate
	// itself: there are no intermediates.
	CA []byte
	// Kind is what the certificate is needed as.
	Kind Kind
	// Lists are revocation lists, DER, of this CA and of others.
	Lists [][]byte
	// MinList refuses lists with a smaller number: what a verifier has seen before.
	MinList *big.Int
	// NoRevocation accepts that there is no list.
	NoRevocation bool
	Now          time.Time
}

// Verified is a certificate that holds, and what it rests on.
type Verified struct {
	*AK
	// List is the number of the newest revocation list that is in date; nil
	// without one.
	List *big.Int
}

// skew is how far clocks may differ.
const skew = 5 * time.Minute

// Verify checks that the CA in o signed der, for the kind, that both are in date,
// and that no list revokes it. Its error is an *Error.
func Verify(der []byte, o Options) (*Verified, error) {
	a, err := Parse(der)
	if err != nil {
		return nil, err
	}
	no := func(code, hint, format string, args ...any) (*Verified, error) {
		return nil, &Error{Code: code, Subject: a.Host, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	ca, kind, err := ParseAuthority(o.CA)
	if err != nil {
		return nil, err
	}
	c := a.Certificate
	if !bytes.Equal(c.RawIssuer, ca.RawSubject) || ca.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
		return no(Untrusted, "", "is not signed by %s", ca.Subject.CommonName)
	}
	if a.Kind != o.Kind || kind != o.Kind {
		return no(WrongKind, "", "is a %s certificate by a CA for %s certificates; a %s certificate is needed", a.Kind, kind, o.Kind)
	}
	for _, x := range []struct {
		what string
		*x509.Certificate
	}{{"certificate", c}, {"CA's certificate", ca}} {
		if o.Now.Add(skew).Before(x.NotBefore) {
			return no(Early, "look at both clocks", "%s is valid from %s on", x.what, x.NotBefore.UTC().Format(time.RFC3339))
		}
		if o.Now.After(x.NotAfter) {
			return no(Expired, "sealift enroll --renew, on the host", "%s expired at %s", x.what, x.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	v := &Verified{AK: a}
	return v, v.revocation(ca, o)
}

// revocation looks through the lists. What any of the CA's lists ever revoked is
// revoked; at least one list must be in date.
func (v *Verified) revocation(ca *x509.Certificate, o Options) error {
	var newest *x509.RevocationList
	for _, der := range o.Lists {
		l := listOf(der, ca)
		if l == nil {
			continue
		}
		for _, r := range l.RevokedCertificateEntries {
			if r.SerialNumber.Cmp(v.Certificate.SerialNumber) == 0 {
				return &Error{Code: Revoked, Subject: v.Host, Message: fmt.Sprintf("%s revoked it at %s", ca.Subject.CommonName, r.RevocationTime.UTC().Format(time.RFC3339))}
			}
		}
		// One that is in date goes before one that is not: no list that is added
		// takes away what another is good for, but by what it revokes.
		if newest == nil || o.inDate(l) != o.inDate(newest) && o.inDate(l) || o.inDate(l) == o.inDate(newest) && l.Number.Cmp(newest.Number) > 0 {
			newest = l
		}
	}
	if o.NoRevocation {
		if newest != nil {
			v.List = newest.Number
		}
		return nil
	}
	const hint = "get the CA's present list: sealift ca crl"
	switch {
	case newest == nil:
		return &Error{RevocationMissing, v.Host, "there is no revocation list of " + ca.Subject.CommonName, hint}
	case o.Now.After(newest.NextUpdate):
		return &Error{RevocationStale, v.Host, fmt.Sprintf("the revocation list of %s was to be replaced at %s", ca.Subject.CommonName, newest.NextUpdate.UTC().Format(time.RFC3339)), hint}
	case o.Now.Add(skew).Before(newest.ThisUpdate):
		return &Error{RevocationStale, v.Host, fmt.Sprintf("the revocation list of %s is of %s, in the future", ca.Subject.CommonName, newest.ThisUpdate.UTC().Format(time.RFC3339)), "look at both clocks"}
	case o.MinList != nil && newest.Number.Cmp(o.MinList) < 0:
		return &Error{RevocationStale, v.Host, fmt.Sprintf("the revocation list of %s has number %v, and number %v was seen before", ca.Subject.CommonName, newest.Number, o.MinList), hint}
	}
	v.List = newest.Number
	return nil
}

// Lists takes revocation lists apart that are DER or PEM, any number of them one
// after the other. What is no list, or was cut off, is given as it is.
func Lists(data []byte) [][]byte {
	var out [][]byte
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----")) {
		for rest := data; len(rest) > 0; {
			var one asn1.RawValue
			after, err := asn1.Unmarshal(rest, &one)
			if err != nil {
				return append(out, rest)
			}
			out, rest = append(out, one.FullBytes), after
		}
		return out
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, block.Bytes)
	}
	// What does not end, or is not base64, pem goes past without a word.
	if bytes.Count(data, []byte("-----BEGIN ")) != len(out) {
		out = append(out, data)
	}
	return out
}

// ReadLists reads a file of revocation lists. One that is passed over in silence
// would be taken for one that was looked at: what is none is an error, and a
// *NotAListError.
func ReadLists(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	defer f.Close() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxLists+1))
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	if len(data) > maxLists {
		return nil, &NotAListError{file, fmt.Sprintf("longer than %d bytes", maxLists)}
	}
	if !IsList(data) {
		return nil, &NotAListError{file, "not a revocation list"}
	}
	return data, nil
}

// maxLists bounds a file of revocation lists: half a million revocations.
const maxLists = 32 << 20

// NotAListError is a file that holds something else than revocation lists.
type NotAListError struct{ File, Reason string }

func (e *NotAListError) Error() string {
	return e.File + ": " + e.Reason + "\nhint: it is what sealift ca crl writes, whole, in DER or PEM"
}

// IsList says that data is one revocation list or several, of whomever, and
// nothing else.
func IsList(data []byte) bool {
	lists := Lists(data)
	for _, der := range lists {
		if _, err := x509.ParseRevocationList(der); err != nil {
			return false
		}
	}
	return len(lists) > 0
}

// Newest is the number of the CA's newest list that is in date; nil without one.
func Newest(ca *x509.Certificate, lists [][]byte, now time.Time) *big.Int {
	var n *big.Int
	for _, der := range lists {
		if l := listOf(der, ca); l != nil && (Options{Now: now}).inDate(l) && (n == nil || l.Number.Cmp(n) > 0) {
			n = l.Number
		}
	}
	return n
}

func (o Options) inDate(l *x509.RevocationList) bool {
	return !o.Now.After(l.NextUpdate) && !o.Now.Add(skew).Before(l.ThisUpdate)
}

// listOf returns the list in der if it is one of the CA's, whole. One that says
// critically that it is something else (a part, a delta) is none.
func listOf(der []byte, ca *x509.Certificate) *x509.RevocationList {
	l, err := x509.ParseRevocationList(der)
	if err != nil || !bytes.Equal(l.RawIssuer, ca.RawSubject) || l.Number == nil || l.NextUpdate.IsZero() || l.CheckSignatureFrom(ca) != nil {
		return nil
	}
	for _, e := range l.Extensions {
		if e.Critical {
			return nil
		}
	}
	return l
}
