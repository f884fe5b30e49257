package ca

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"strings"
	"time"

	"github.com/sealift/sealift/internal/durable"
)

// NewList signs a new revocation list (RFC 5280, section 5) of all that was ever
// revoked, and returns it, DER.
func (c *CA) NewList() ([]byte, error) {
	var der []byte
	err := c.locked(func() error {
		records, err := c.Records()
		if err == nil {
			der, err = c.newList(records)
		}
		return err
	})
	return der, err
}

// List returns the present list, or a new one where that is past a quarter of
// its time or lacks a revocation.
func (c *CA) List() ([]byte, error) {
	var der []byte
	err := c.locked(func() error {
		records, err := c.Records()
		if err == nil {
			der, err = c.list(records)
		}
		return err
	})
	return der, err
}

// list is List. The caller has the lock, under which it read the records.
func (c *CA) list(records []*Record) ([]byte, error) {
	der, err := os.ReadFile(c.path(listFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c.newList(records)
	}
	if err != nil {
		return nil, fmt.Errorf("CA %s: revocation list: %w", c.dir, err)
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("CA %s: revocation list: %w\nhint: remove %s; sealift ca crl signs another", c.dir, err, c.path(listFile))
	}
	age := c.now().Sub(l.ThisUpdate)
	if age < 0 || age > time.Duration(c.config.Revocation)/4 {
		return c.newList(records)
	}
	listed := map[string]bool{}
	for _, e := range l.RevokedCertificateEntries {
		listed[serialText(e.SerialNumber)] = true
	}
	for _, r := range records {
		if r.Revoked != 0 && !listed[r.Serial] {
			return c.newList(records) // killed between the record and its list
		}
	}
	return der, nil
}

// newList signs. The caller has the lock, under which it read the records.
func (c *CA) newList(records []*Record) ([]byte, error) {
	wrap := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("CA %s: revocation list: %w", c.dir, err)
	}
	number, err := c.nextNumber()
	if err != nil {
		return wrap(err)
	}
	now := c.now().Truncate(time.Second)
	template := &x509.RevocationList{Number: number, ThisUpdate: now, NextUpdate: now.Add(time.Duration(c.config.Revocation))}
	for _, r := range records {
		if r.Revoked == 0 {
			continue
		}
		serial, ok := new(big.Int).SetString(r.Serial, 16)
		if !ok {
			return wrap(fmt.Errorf("serial number %q is not hex", r.Serial))
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Unix(r.Revoked, 0)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, c.cert, c.key)
	if err != nil {
		return wrap(err)
	}
	if err := durable.Write(c.path(listFile), der, 0o600); err != nil {
		return wrap(err)
	}
	return der, nil
}

// nextNumber uses up a list's number: on disk before it is signed, so that no
// two lists bear one.
func (c *CA) nextNumber() (*big.Int, error) {
	n := new(big.Int)
	b, err := os.ReadFile(c.path(numberFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if _, ok := n.SetString(strings.TrimSpace(string(b)), 10); !ok {
			return nil, fmt.Errorf("%s holds no number", c.path(numberFile))
		}
	}
	n.Add(n, big.NewInt(1))
	return n, durable.Write(c.path(numberFile), []byte(n.String()+"\n"), 0o600)
}
