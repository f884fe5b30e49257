package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// maxResponse bounds what a response's header may announce. TPMs have buffers
// of 4 KiB; a peer on a socket is not to make us allocate more.
const maxResponse = 1 << 16

// errUnsent marks a command of which no byte was handed over: it may be sent
// again, whatever it is.
var errUnsent = errors.New("not sent")

// socketPath returns PATH of "unix:PATH".
func socketPath(device string) (string, bool) { return strings.CutPrefix(device, "unix:") }

// dial opens a connection to the device: a character device through go-tpm's
// linuxtpm, or a socket that swtpm serves.
func dial(device string) (transport.TPMCloser, error) {
	path, ok := socketPath(device)
	if !ok {
		return linuxtpm.Open(device)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return &socket{c}, nil
}

// socket frames commands over a stream: linuxudstpm dials anew for each
// command and reads a response in one piece, this keeps the connection.
type socket struct{ net.Conn }

// Send writes one command and reads its response, whole.
func (s *socket) Send(command []byte) ([]byte, error) {
	if n, err := s.Write(command); err != nil {
		if n == 0 {
			err = fmt.Errorf("%w: %w", errUnsent, err)
		}
		return nil, err
	}
	var header [10]byte
	if _, err := io.ReadFull(s.Conn, header[:]); err != nil {
		return nil, fmt.Errorf("response header: %w", err)
	}
	size := binary.BigEndian.Uint32(header[2:6])
	if size < uint32(len(header)) || size > maxResponse {
		return nil, fmt.Errorf("response header announces %d bytes", size)
	}
	response := make([]byte, size)
	copy(response, header[:])
	if _, err := io.ReadFull(s.Conn, response[len(header):]); err != nil {
		return nil, fmt.Errorf("response body: %w", err)
	}
	return response, nil
}

// watched notes whether the link itself broke, to tell that from an error code
// the TPM sent, and whether anything had been handed over by then.
type watched struct {
	transport.TPM
	broke error
}

func (w *watched) Send(command []byte) ([]byte, error) {
	response, err := w.TPM.Send(command)
	if err != nil {
		w.broke = errors.Join(w.broke, err)
	}
	return response, err
}
