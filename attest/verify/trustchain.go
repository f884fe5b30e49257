package verify

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/trust"
)

// keyTrust finds out whose key made the quote.
func (a *appraisal) keyTrust() {
	var err error
	if a.key, err = parseKey(a.e.AK.Public); err != nil {
		a.all("key", "", "the attestation key %v", err)
		return
	}
	if len(a.p.CAs) == 0 {
		a.refuse(Identity, "no-ca", "", "name the CA that enrolled the host: ca: in trust.yaml", "the trust policy names no CA")
		return
	}
	lists := revocationLists(a.in.Revocation)
	c, by := a.certified("certificate", "sealift enroll", a.e.AK.Certificates, a.p.CAs, certificate.Platform, lists)
	if c == nil {
		return
	}
	a.class, a.v.Host, a.v.Class = c.Class, c.Host, string(c.Class)
	if !slices.Contains(by.Classes, a.class) {
		a.refuse(Hardware, "class", string(a.class), "list the class with the CA in trust.yaml, if you mean it", "CA %s certifies a %s TPM; of this CA that class is not accepted", by.Name, a.class)
	}
	if want := a.in.Expect.Host; want != "" && want != c.Host {
		a.refuse(Identity, "other-host", c.Host, "", "it is host %s; %s was wanted", c.Host, want)
	}
	if !a.p.Hosts.Has(c.Host) {
		a.refuse(Identity, "host", c.Host, "list it under hosts: in trust.yaml, or write hosts: any", "host %s is not among those the policy accepts", c.Host)
	}
	on := fmt.Sprintf("CA %s: it activated this key in a TPM it found to be %s", by.Name, a.class)
	a.rests(Identity, on)
	a.rests(Hardware, on)
	if len(a.p.Owners) == 0 {
		return
	}
	owner, by := a.certified("owner", "have the host's owner certify it too: sealift enroll, with the owner's CA", a.e.AK.Owner, a.p.Owners, certificate.Owner, lists)
	if owner == nil {
		return
	}
	if owner.Host != c.Host || owner.EK != c.EK {
		a.refuse(Identity, "owner-other", owner.Host, "", "the owner's certificate is for host %s in another TPM than the CA's, for %s", owner.Host, c.Host)
	}
	a.rests(Identity, fmt.Sprintf("owner %s: the host is theirs", by.Name))
}

// certified finds an authority among those given that certifies the key.
func (a *appraisal) certified(what, hint string, chain [][]byte, by []trust.Authority, kind certificate.Kind, lists [][]byte) (*certificate.Verified, *trust.Authority) {
	if len(chain) == 0 {
		a.refuse(Identity, what+"-missing", "", hint, "the attestation key has no %s certificate", kind)
		return nil, nil
	}
	var why *certificate.Error
	for i := range by {
		for _, ca := range by[i].Certificates {
			v, err := certificate.Verify(chain[0], certificate.Options{
				CA: ca.Raw, Kind: kind, Lists: lists, MinList: a.minList(ca), NoRevocation: !by[i].Revocation, Now: a.in.Now,
			})
			var wrong *certificate.Error
			if errors.As(err, &wrong) {
				// What its own CA says of it weighs more than that another did not sign it.
				if why == nil || why.Code == certificate.Untrusted {
					why = wrong
				}
				continue
			}
			if err != nil {
				a.refuse(Identity, what+"-malformed", "", "", "%v", err)
				return nil, nil
			}
			if !v.Key.Equal(a.key.pub) || !bytes.Equal(v.Name, a.key.name) {
				a.refuse(Identity, what+"-other-key", v.Host, "", "the %s certificate binds TPM object %x, and %x quotes", kind, v.Name, a.key.name)
				return nil, nil
			}
			a.note(ca, v.List)
			if !by[i].Revocation {
				a.warn(Identity, "revocation-off", by[i].Name, "revocation lists of %s are not asked for, by policy", by[i].Name)
			}
			return v, &by[i]
		}
	}
	if why == nil {
		why = &certificate.Error{Code: certificate.Untrusted, Message: "no CA is named"}
	}
	if why.Code == certificate.Untrusted {
		why.Hint = "is it the right trust.yaml, and the right host?"
	}
	code := why.Code
	if kind == certificate.Owner {
		code = "owner-" + code
	}
	a.refuse(Identity, code, why.Subject, why.Hint, "%s certificate: %s", kind, why.Message)
	return nil, nil
}

// revocationLists takes lists as DER or PEM.
func revocationLists(given [][]byte) [][]byte {
	var out [][]byte
	for _, data := range given {
		out = append(out, certificate.Lists(data)...)
	}
	return out
}

// minList is the number of the CA's newest list that was seen before.
func (a *appraisal) minList(ca *x509.Certificate) *big.Int {
	if a.prior == nil {
		return nil
	}
	n, ok := new(big.Int).SetString(a.prior.Lists[certificate.Fingerprint(ca)], 10)
	if !ok {
		return nil
	}
	return n
}

// remember keeps the numbers of the lists that were given also where the verdict
// ends at the certificate: the list that revoked it is the very one that an older
// must not take the place of. Without an earlier verdict there is nothing yet to
// keep them with.
func (a *appraisal) remember() {
	if a.prior == nil || a.v.Next != nil {
		return
	}
	lists := revocationLists(a.in.Revocation)
	for _, by := range slices.Concat(a.p.CAs, a.p.Owners) {
		for _, ca := range by.Certificates {
			a.note(ca, certificate.Newest(ca, lists, a.in.Now))
		}
	}
	if !maps.Equal(a.lists, a.prior.Lists) {
		next := *a.prior
		next.Lists = a.lists
		a.v.Next = &next
	}
}

// note remembers it; a smaller one, where no list is asked for, is not.
func (a *appraisal) note(ca *x509.Certificate, number *big.Int) {
	if least := a.minList(ca); number != nil && (least == nil || number.Cmp(least) > 0) {
		a.lists[certificate.Fingerprint(ca)] = number.String()
	}
}
