package swtpmtest

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Command codes of the commands a Proxy is asked about (TCG Part 2, table 12).
const (
	PCRExtend = 0x00000182
	PCRRead   = 0x0000017E
)

// Proxy stands between a tpm.Device and swtpm.
type Proxy struct {
	Socket string

	to    string
	mu    sync.Mutex
	count map[uint32]int
	// before runs ahead of a command's way to the TPM, after ahead of its
	// response's way back.
	before, after func(code uint32)
	// instead may answer a command in the TPM's place.
	instead func(code uint32) (rc uint32, ok bool)
	conns   map[net.Conn]bool
}

// NewProxy listens on a socket of its own in front of x.
func NewProxy(t testing.TB, x *TPM) *Proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpmproxy")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Socket: filepath.Join(dir, "s"), to: x.Socket, count: map[uint32]int{}, conns: map[net.Conn]bool{}}
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		for c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

// Device is the name tpm.Open takes.
func (p *Proxy) Device() string { return "unix:" + p.Socket }

// Set replaces both hooks; nil is none. A hook that blocks holds the command.
func (p *Proxy) Set(before, after func(code uint32)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before, p.after = before, after
}

// Answer has f answer commands in the TPM's place with a bare response code,
// where it returns true; the TPM does not see those. nil ends it.
func (p *Proxy) Answer(f func(code uint32) (rc uint32, ok bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.instead = f
}

// Delay makes every command of the code take at least d.
func (p *Proxy) Delay(code uint32, d time.Duration) {
	p.Set(func(c uint32) {
		if c == code {
			time.Sleep(d)
		}
	}, nil)
}

// Count says how many commands of the code were handed to the TPM.
func (p *Proxy) Count(code uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[code]
}

func (p *Proxy) hooks() (before, after func(uint32)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.before, p.after
}

func (p *Proxy) serve(c net.Conn) {
	p.mu.Lock()
	p.conns[c] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		c.Close()
	}()
	for {
		command, err := frame(c)
		if err != nil {
			return
		}
		code := binary.BigEndian.Uint32(command[6:10])
		before, _ := p.hooks()
		if before != nil {
			before(code)
		}
		response, err := p.forward(code, command)
		if err != nil {
			return
		}
		if _, after := p.hooks(); after != nil {
			after(code)
		}
		if _, err := c.Write(response); err != nil {
			return
		}
	}
}

// forward uses a connection a command, so that a held client holds nobody else.
func (p *Proxy) forward(code uint32, command []byte) ([]byte, error) {
	p.mu.Lock()
	instead := p.instead
	p.mu.Unlock()
	if instead != nil {
		if rc, ok := instead(code); ok {
			response := binary.BigEndian.AppendUint32([]byte{0x80, 0x01}, 10)
			return binary.BigEndian.AppendUint32(response, rc), nil
		}
	}
	t, err := net.Dial("unix", p.to)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	p.mu.Lock()
	p.count[code]++
	p.mu.Unlock()
	if _, err := t.Write(command); err != nil {
		return nil, err
	}
	return frame(t)
}

// frame reads one command or response: tag, size, code, and the rest.
func frame(r io.Reader) ([]byte, error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:6])
	if size < 10 || size > 1<<16 {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, size)
	copy(b, header)
	_, err := io.ReadFull(r, b[10:])
	return b, err
}
