package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Paths of a CA on a network.
const (
	ChallengePath = "/v1/challenge"
	IssuePath     = "/v1/issue"
	ListPath      = "/v1/crl"
)

// clientTime bounds one question to a CA.
const clientTime = 30 * time.Second

// Client asks a CA on a network. Close ends its connections.
type Client struct {
	address string
	http    *http.Client
}

// RefusedError is the CA's no, in its words.
type RefusedError struct{ Message string }

func (e *RefusedError) Error() string { return "CA: " + e.Message }

// NewClient asks the CA at address, HOST:PORT, whose own certificate has the
// SHA-256 fingerprint, in hex. Nothing else about the certificate counts.
func NewClient(address, fingerprint string) (*Client, error) {
	want, err := hex.DecodeString(plain(fingerprint))
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("CA fingerprint %q: is not %d bytes of hex\nhint: sealift ca show prints it, on the CA", fingerprint, sha256.Size)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf("CA address: %w", err)
	}
	return &Client{address, &http.Client{
		Timeout: clientTime,
		Transport: &http.Transport{
			TLSHandshakeTimeout: clientTime / 2, MaxResponseHeaderBytes: 8 << 10, DisableCompression: true,
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS13,
				// The fingerprint stands in for chain and name, and is checked below.
				InsecureSkipVerify: true,
				VerifyConnection: func(s tls.ConnectionState) error {
					if len(s.PeerCertificates) == 0 {
						return errors.New("the peer showed no certificate")
					}
					if got := sha256.Sum256(s.PeerCertificates[0].Raw); !bytes.Equal(got[:], want) {
						return fmt.Errorf("the certificate at %s is %x, not %x\nhint: another CA answers there, or somebody between; compare with sealift ca show, on the CA", address, got, want)
					}
					return nil
				},
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a CA does not send elsewhere") },
	}}, nil
}

// plain takes a fingerprint as openssl writes it, too.
func plain(fingerprint string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(fingerprint), ":", ""))
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Challenge sends a request and returns the challenge.
func (c *Client) Challenge(ctx context.Context, request []byte) ([]byte, error) {
	return c.do(ctx, http.MethodPost, ChallengePath, request)
}

// Issue sends an answer and returns the result.
func (c *Client) Issue(ctx context.Context, answer []byte) ([]byte, error) {
	return c.do(ctx, http.MethodPost, IssuePath, answer)
}

// List returns the CA's revocation list, DER. It is no secret, and believed for
// its signature.
func (c *Client) List(ctx context.Context) ([]byte, error) {
	b, err := c.do(ctx, http.MethodGet, ListPath, nil)
	if err != nil {
		return nil, err
	}
	if _, err := x509.ParseRevocationList(b); err != nil {
		return nil, fmt.Errorf("CA at %s: revocation list: %w", c.address, err)
	}
	return b, nil
}

func (c *Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, method, "https://"+c.address+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("CA at %s: %w", c.address, err)
	}
	r, err := c.http.Do(q)
	if err != nil {
		return nil, fmt.Errorf("CA at %s: %w", c.address, err)
	}
	defer r.Body.Close()
	const limit = 16 << 20 // of a list; messages are smaller
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("CA at %s: %w", c.address, err)
	}
	switch {
	case len(b) > limit:
		return nil, fmt.Errorf("CA at %s: its answer is more than %d bytes long", c.address, limit)
	case r.StatusCode == http.StatusForbidden:
		return nil, &RefusedError{strings.TrimSpace(string(b))}
	case r.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("CA at %s: %s: %s", c.address, r.Status, strings.TrimSpace(string(b)))
	}
	return b, nil
}
