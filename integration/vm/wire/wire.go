// Package wire is what the tests and the program inside a virtual machine say
// to each other over a virtio port: one JSON object a line, so that whoever
// joins in the middle, as after a reset, finds the next beginning.
package wire

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// The operations.
const (
	OpRun    = "run"    // to the guest: run Args; Stdin is all of its input
	OpKill   = "kill"   // to the guest: SIGKILL to a command's process group
	OpReady  = "ready"  // from the guest: it serves; Boot is the boot id
	OpOutput = "output" // from the guest: a command wrote Data to Stream
	OpExit   = "exit"   // from the guest: a command ended
)

// Message is one line.
type Message struct {
	Op string `json:"op"`
	ID uint64 `json:"id,omitempty"`

	Args  []string `json:"args,omitempty"`
	Env   []string `json:"env,omitempty"`
	Stdin []byte   `json:"stdin,omitempty"`

	Boot   string `json:"boot,omitempty"`
	Stream int    `json:"stream,omitempty"` // 1 or 2
	Data   []byte `json:"data,omitempty"`
	Status int    `json:"status,omitempty"` // 128+n for one that signal n ended
	Error  string `json:"error,omitempty"`  // why a command was not started
}

// maxLine bounds a line: input of a command, in base64.
const maxLine = 64 << 20

// Conn sends and receives messages. Send is safe for concurrent use.
type Conn struct {
	mu sync.Mutex
	w  io.Writer
	sc *bufio.Scanner
}

// New makes a Conn of a port.
func New(rw io.ReadWriter) *Conn {
	c := &Conn{w: rw, sc: bufio.NewScanner(rw)}
	c.sc.Buffer(make([]byte, 64<<10), maxLine)
	return c
}

// Send writes one message. It begins with an end of line, so that it does not
// continue what somebody before left unfinished.
func (c *Conn) Send(m Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	line := append(append([]byte{'\n'}, b...), '\n')
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.w.Write(line); err != nil {
		return fmt.Errorf("virtio port: %w", err)
	}
	return nil
}

// Receive returns the next message, passing over lines that are none. At the
// end of the stream the error is io.EOF.
func (c *Conn) Receive() (Message, error) {
	for c.sc.Scan() {
		var m Message
		if len(c.sc.Bytes()) > 0 && json.Unmarshal(c.sc.Bytes(), &m) == nil && m.Op != "" {
			return m, nil
		}
	}
	if err := c.sc.Err(); err != nil {
		return Message{}, fmt.Errorf("virtio port: %w", err)
	}
	return Message{}, io.EOF
}
