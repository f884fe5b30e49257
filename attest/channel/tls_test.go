package channel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
)

// naiveTLS is what crypto/tls does when nobody looks at it closely.
func naiveTLS(e *Endpoint) *tls.Config {
	c := e.tlsConfig()
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, 0
	c.SessionTicketsDisabled = false
	c.VerifyConnection = nil
	return c
}

// serveTLS makes one TLS handshake as a server.
func serveTLS(t *testing.T, c *tls.Config, raw net.Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		s := tls.Server(raw, c)
		err := s.HandshakeContext(t.Context())
		done <- err
		if err == nil {
			_, _ = s.Write([]byte("x"))
		}
	}()
	return done
}

func TestDowngrade(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a").endpoint(t, nil), w.host(t, "b").endpoint(t, nil)
	old := naiveTLS(a)
	old.MaxVersion = tls.VersionTLS12

	cw, sw := wire(t)
	done := serveTLS(t, naiveTLS(b), sw)
	c := tls.Client(cw, old)
	if err := errors.Join(c.Handshake(), <-done); err != nil || c.ConnectionState().Version != tls.VersionTLS12 {
		t.Errorf("a naive server does not even fall back: %v", err)
	}
	cw, sw = wire(t)
	srv := inBackground(func() (*Conn, error) { return b.Server(t.Context(), sw) })
	if err := tls.Client(cw, old).Handshake(); err == nil {
		t.Error("fell back")
	}
	wrong(t, (<-srv).err, PhaseTLS)

	// And a server that knows nothing newer, or whoever plays one.
	cw, sw = wire(t)
	oldServer := naiveTLS(b)
	oldServer.MaxVersion = tls.VersionTLS12
	done = serveTLS(t, oldServer, sw)
	_, err := a.Client(t.Context(), cw, Target{})
	wrong(t, err, PhaseTLS)
	if err := <-done; err == nil {
		t.Error("fell back")
	}
}

// A session that is resumed has keys older than its handshake, and need not
// show a key at all.
func TestResumption(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a").endpoint(t, nil), w.host(t, "b").endpoint(t, nil)
	second := func(server *tls.Config) (resumed bool) {
		client := naiveTLS(a)
		client.ServerName, client.ClientSessionCache = "b", tls.NewLRUClientSessionCache(8)
		for range 2 {
			cw, sw := wire(t)
			done := serveTLS(t, server, sw)
			c := tls.Client(cw, client)
			if err := errors.Join(c.Handshake(), <-done); err != nil {
				t.Fatal(err)
			}
			// Tickets come behind the handshake.
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			resumed = c.ConnectionState().DidResume
			c.Close()
		}
		return resumed
	}
	if !second(naiveTLS(b)) {
		t.Error("a naive server does not even resume")
	}
	if second(b.tlsConfig()) {
		t.Error("resumed")
	}
	// A client of ours asks for no ticket to come back with, and takes no
	// resumed session.
	if _, err := a.peerSPKI(tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true}); err == nil {
		t.Error("a resumed session passes")
	}
}

// Clients whose TLS is in order and whose key or protocol is not.
func TestWrongTLSPeers(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b").endpoint(t, nil)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ea := a.endpoint(t, nil)
	cert := func(change func(*Endpoint)) func(*tls.Config) {
		return func(c *tls.Config) {
			odd := *ea
			change(&odd)
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return odd.certificate() }
		}
	}
	for name, change := range map[string]func(*tls.Config){
		"no application protocol": func(c *tls.Config) { c.NextProtos = nil },
		"HTTP/2":                  func(c *tls.Config) { c.NextProtos = []string{"h2"} },
		"no certificate": func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		},
		"P-384": cert(func(e *Endpoint) { e.cfg.Key = p384 }),
		"RSA":   cert(func(e *Endpoint) { e.cfg.Key = rsa2048 }),
		"two certificates": func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				x, err := ea.certificate()
				if err == nil {
					x.Certificate = append(x.Certificate, x.Certificate[0])
				}
				return x, err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cw, sw := wire(t)
			srv := inBackground(func() (*Conn, error) { return b.Server(t.Context(), sw) })
			c := ea.tlsConfig()
			c.VerifyConnection = nil
			change(c)
			// In TLS 1.3 a client may be done before the server refuses it.
			if s := tls.Client(cw, c); s.Handshake() == nil {
				_, err := s.Read(make([]byte, 1))
				if err == nil {
					t.Error("let in")
				}
			}
			wrong(t, (<-srv).err, PhaseTLS)
		})
	}
}
