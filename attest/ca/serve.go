package ca

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/sealift/sealift/attest/enroll"
)

// Bounds of the network side.
const (
	maxConnections = 64
	requestTime    = 15 * time.Second
	idleTime       = 30 * time.Second
	maxHeader      = 8 << 10
)

// Serve answers hosts on l until ctx ends: HTTP over TLS 1.3, with the CA's own
// certificate, which hosts know by its fingerprint. It takes l over.
func (c *CA) Serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+enroll.ChallengePath, c.handler(log, "challenge", c.Admit))
	mux.HandleFunc("POST "+enroll.IssuePath, c.handler(log, "issue", c.Issue))
	mux.HandleFunc("GET "+enroll.ListPath, func(w http.ResponseWriter, _ *http.Request) {
		der, err := c.List()
		reply(log, w, "list", "application/pkix-crl", der, err)
	})
	s := &http.Server{
		Handler:           http.TimeoutHandler(mux, requestTime, "the CA is busy\nhint: ask again"),
		ReadHeaderTimeout: requestTime, ReadTimeout: requestTime, WriteTimeout: 2 * requestTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion:             tls.VersionTLS13,
			Certificates:           []tls.Certificate{{Certificate: [][]byte{c.cert.Raw}, PrivateKey: c.key, Leaf: c.cert}},
			SessionTicketsDisabled: true,
			NextProtos:             []string{"http/1.1"},
		},
	}
	stop := context.AfterFunc(ctx, func() {
		// What is under way may end; its time is bounded.
		end, cancel := context.WithTimeout(context.Background(), requestTime)
		defer cancel()
		if err := s.Shutdown(end); err != nil {
			log.Warn("shutdown", "err", err)
		}
	})
	defer stop()
	err := s.ServeTLS(netutil.LimitListener(l, maxConnections), "", "")
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("CA %s: %w", c.dir, err)
}

// handler answers one kind of message.
func (c *CA) handler(log *slog.Logger, what string, f func([]byte) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, enroll.MaxMessage))
		if err != nil {
			http.Error(w, "the message cannot be read: "+err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		out, err := f(b)
		reply(log, w, what, "application/json", out, err)
	}
}

func reply(log *slog.Logger, w http.ResponseWriter, what, kind string, out []byte, err error) {
	var no *Refusal
	switch {
	case errors.As(err, &no):
		log.Warn("refused", "request", what, "host", no.Host, "code", no.Code, "reason", no.Message)
		http.Error(w, no.Error(), http.StatusForbidden)
	case err != nil:
		// What is wrong with the CA is its operator's business.
		log.Error("not answered", "request", what, "err", err)
		http.Error(w, "the CA cannot answer now\nhint: its log says why", http.StatusInternalServerError)
	default:
		log.Info("answered", "request", what, "bytes", len(out))
		w.Header().Set("Content-Type", kind)
		if _, err := w.Write(out); err != nil {
			log.Debug("answer", "err", err)
		}
	}
}
