package ca

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/attest/key"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// serve serves the CA on loopback until the test ends.
func serve(t *testing.T, c *CA) (address string) {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, l, slog.New(slog.NewTextHandler(io.Discard, nil))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func client(t *testing.T, address, fingerprint string) *enroll.Client {
	t.Helper()
	cl := must(enroll.NewClient(address, fingerprint))(t)
	t.Cleanup(cl.Close)
	return cl
}

// over enrols over the network.
func over(t *testing.T, cl *enroll.Client, h *enroll.Host, token string) error {
	t.Helper()
	challenge, err := cl.Challenge(t.Context(), must(h.Request(t.Context(), token))(t))
	if err != nil {
		return err
	}
	result, err := cl.Issue(t.Context(), must(h.Answer(t.Context(), challenge))(t))
	if err != nil {
		return err
	}
	_, err = enroll.Check(result, h.AK.Public, "")
	return err
}

func TestNetwork(t *testing.T) {
	c, other := newCA(t, Options{}), newCA(t, Options{})
	address := serve(t, c)
	cl := client(t, address, certificate.Fingerprint(c.cert))
	h := host(t, swtpmtest.Start(t), "web1", t.TempDir())
	want := func(err error, about string) {
		t.Helper()
		var no *enroll.RefusedError
		if !errors.As(err, &no) || !strings.Contains(no.Message, about) {
			t.Errorf("got %v, want a refusal about %q", err, about)
		}
	}
	// A token admits; it does not vouch for the TPM.
	word := must(c.NewToken("web1", time.Hour))(t)
	want(over(t, cl, h, word), "is not known")
	f := must(certificate.EKFingerprint(must(key.ParsePublic(h.EK.Public))(t).Key()))(t)
	// A pinned key for another name admits no one else.
	if err := c.PinEK(f, "web9"); err != nil {
		t.Fatal(err)
	}
	want(over(t, cl, h, ""), "pinned as web9")
	if err := c.PinEK(f, "web1"); err != nil {
		t.Fatal(err)
	}
	want(over(t, cl, h, must(other.NewToken("web1", time.Hour))(t)), "token is not valid")
	want(over(t, cl, h, must(c.NewToken("web2", time.Hour))(t)), "token is not valid")
	want(over(t, cl, h, must(c.NewToken("web1", -time.Hour))(t)), "token is not valid")
	if err := over(t, cl, h, word); err != nil {
		t.Error(err)
	}
	want(over(t, cl, h, word), "token is not valid")
	// Renewal needs no token; after a revocation a person's word is needed, pinned or not.
	if err := over(t, cl, h, ""); err != nil {
		t.Error(err)
	}
	must(c.Revoke("web1", ""))(t)
	want(over(t, cl, h, ""), "was revoked")
	if err := over(t, cl, h, must(c.NewToken("web1", time.Hour))(t)); err != nil {
		t.Error(err)
	}
	if list, err := cl.List(t.Context()); err != nil || len(list) == 0 {
		t.Error(err)
	}
	// Another CA at the address is noticed before anything is sent.
	_, err := client(t, address, certificate.Fingerprint(other.cert)).Challenge(t.Context(), []byte("x"))
	if err == nil || !strings.Contains(err.Error(), "another CA answers") {
		t.Errorf("%v", err)
	}
}

// Huge, silent and foolish peers.
func TestNetworkHostile(t *testing.T) {
	c := newCA(t, Options{})
	address := serve(t, c)
	cl := client(t, address, certificate.Fingerprint(c.cert))
	for _, b := range [][]byte{nil, []byte("{"), []byte(strings.Repeat("[", 1<<16)), make([]byte, enroll.MaxMessage+1)} {
		if _, err := cl.Challenge(t.Context(), b); err == nil {
			t.Errorf("%.10q was answered", b)
		}
		if _, err := cl.Issue(t.Context(), b); err == nil {
			t.Errorf("%.10q was answered", b)
		}
	}
	// Many that are silent keep nobody from being answered.
	for range maxConnections / 2 {
		conn := must(net.Dial("tcp", address))(t)
		defer conn.Close()
	}
	if _, err := cl.List(t.Context()); err != nil {
		t.Error(err)
	}
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}}}
	if r, err := old.Get("https://" + address + enroll.ListPath); err == nil {
		r.Body.Close()
		t.Error("spoke TLS 1.2")
	}
}
