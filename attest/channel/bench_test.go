package channel

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// counted counts what one side of a connection sends and receives.
type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes.Add(int64(n))
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

// BenchmarkHandshake opens a channel over loopback; evidence is a few hundred
// bytes and no TPM is asked, so this is what the channel itself costs.
func BenchmarkHandshake(b *testing.B) {
	w := newWorld()
	unlimited := func(c *Config) { c.Limits.QuoteBurst = 1 << 30 }
	ea, eb := w.host(b, "a").endpoint(b, unlimited), w.host(b, "b").endpoint(b, unlimited)
	var sent atomic.Int64
	for b.Loop() {
		cw, sw := wire(b)
		srv := inBackground(func() (*Conn, error) { return eb.Server(b.Context(), sw) })
		c, err := ea.Client(b.Context(), counted{cw, &sent}, Target{})
		s := <-srv
		if err != nil || s.err != nil {
			b.Fatal(err, s.err)
		}
		c.Close()
		s.conn.Close()
	}
	b.ReportMetric(float64(sent.Load())/float64(b.N), "wire-bytes/op")
}

// BenchmarkProof is one more proof in an open channel.
func BenchmarkProof(b *testing.B) {
	w := newWorld()
	unlimited := func(c *Config) { c.Limits.QuoteBurst = 1 << 30 }
	var sent atomic.Int64
	cw, sw := wire(b)
	c, _ := pairOver(b, w.host(b, "a").endpoint(b, unlimited), w.host(b, "b").endpoint(b, unlimited), counted{cw, &sent}, sw)
	sent.Store(0)
	for b.Loop() {
		if _, err := c.Attest(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(sent.Load())/float64(b.N), "wire-bytes/op")
}

// BenchmarkData is what the application gets through.
func BenchmarkData(b *testing.B) {
	w := newWorld()
	c, s := pair(b, w.host(b, "a").endpoint(b, nil), w.host(b, "b").endpoint(b, nil))
	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, s)
		done <- err
	}()
	for b.Loop() {
		if _, err := c.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkTLS is the mutual TLS 1.3 handshake that a channel begins with, alone.
func BenchmarkTLS(b *testing.B) {
	w := newWorld()
	ea, eb := w.host(b, "a").endpoint(b, nil), w.host(b, "b").endpoint(b, nil)
	var sent atomic.Int64
	for b.Loop() {
		cw, sw := wire(b)
		srv := inBackground(func() (*Conn, error) {
			c, _, _, err := eb.secure(b.Context(), sw, true)
			if err != nil {
				return nil, err
			}
			return nil, c.Close()
		})
		c, _, _, err := ea.secure(b.Context(), counted{cw, &sent}, false)
		if err != nil {
			b.Fatal(err)
		}
		if s := <-srv; s.err != nil {
			b.Fatal(s.err)
		}
		c.Close()
	}
	b.ReportMetric(float64(sent.Load())/float64(b.N), "wire-bytes/op")
}
