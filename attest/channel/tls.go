package channel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// certificateLife is the validity written into the certificate of a handshake.
// Nobody judges it, nor any name in it: the certificate carries a key.
const certificateLife = 10 * time.Minute

func (e *Endpoint) certificate() (*tls.Certificate, error) {
	now := e.cfg.Clock()
	serial := make([]byte, 8)
	rand.Read(serial)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(append([]byte{1}, serial...)),
		NotBefore:    now.Add(-certificateLife),
		NotAfter:     now.Add(certificateLife),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, e.cfg.Key.Public(), e.cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: e.cfg.Key}, nil
}

// tlsConfig is TLS 1.3 between any two keys. Resumption, tickets and early
// data would give a connection whose keys are older than its evidence;
// renegotiation does not exist in TLS 1.3.
func (e *Endpoint) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{Protocol},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		Renegotiation:          tls.RenegotiateNever,
		// No authority signs these certificates: VerifyConnection looks at the
		// key, evidence says whose it is.
		InsecureSkipVerify: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return e.certificate()
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return e.certificate()
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := e.peerSPKI(s)
			return err
		},
	}
}

// peerSPKI returns the peer's key, or says what of the connection is not as
// this protocol wants it. TLS has the peer prove that it holds the key.
func (e *Endpoint) peerSPKI(s tls.ConnectionState) ([]byte, error) {
	switch {
	case s.Version != tls.VersionTLS13:
		return nil, malformed("%s, wanted TLS 1.3", tls.VersionName(s.Version))
	case s.DidResume:
		return nil, malformed("resumed session")
	case s.NegotiatedProtocol != Protocol:
		return nil, malformed("application protocol %q, wanted %q", s.NegotiatedProtocol, Protocol)
	case len(s.PeerCertificates) != 1:
		return nil, malformed("%d certificates, wanted the one that carries the channel key", len(s.PeerCertificates))
	}
	spki := s.PeerCertificates[0].RawSubjectPublicKeyInfo
	if k, ok := s.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, malformed("channel key is %s, wanted ECDSA P-256", s.PeerCertificates[0].PublicKeyAlgorithm)
	} else if der, err := x509.MarshalPKIXPublicKey(k); err != nil || !bytes.Equal(der, spki) {
		// One key has one encoding, or one host could be two.
		return nil, malformed("channel key is not in its one DER encoding")
	}
	if bytes.Equal(spki, e.spki) {
		return nil, malformed("the peer has this host's own channel key")
	}
	return spki, nil
}

// secure makes the TLS handshake and takes the exporter.
func (e *Endpoint) secure(ctx context.Context, raw net.Conn, server bool) (c *tls.Conn, spki, exporter []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Limits.TLS)
	defer cancel()
	if server {
		c = tls.Server(raw, e.tlsConfig())
	} else {
		c = tls.Client(raw, e.tlsConfig())
	}
	if err := c.HandshakeContext(ctx); err != nil {
		if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return nil, nil, nil, err
	}
	s := c.ConnectionState()
	if spki, err = e.peerSPKI(s); err != nil {
		return nil, nil, nil, err
	}
	if exporter, err = s.ExportKeyingMaterial(ExporterLabel, nil, exporterSize); err != nil {
		return nil, nil, nil, fmt.Errorf("exporter: %w", err)
	}
	return c, bytes.Clone(spki), exporter, nil
}
