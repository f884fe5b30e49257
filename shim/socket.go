package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"

	"github.com/containerd/containerd/v2/defaults"
	cshim "github.com/containerd/containerd/v2/pkg/shim"
)

// socket is the socket of a shim. Its listener is nil where a shim serves it
// already.
type socket struct {
	address  string
	listener *net.UnixListener
}

// ownGroup keeps our sockets apart from the stock shim's, whose address is made
// from the same values: a container of ours must not end up in a stock shim of
// the same pod, which measures nothing.
const ownGroup = "/sealift"

// listen makes the socket of group, or finds that a living shim has it.
func listen(ctx context.Context, dir, containerd, group string) (*socket, error) {
	if dir == "" {
		dir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	address, err := cshim.CreateSocketAddress(ctx, dir, containerd, group+ownGroup, false)
	if err != nil {
		return nil, fmt.Errorf("shim socket: %w", err)
	}
	l, err := cshim.NewSocket(address)
	if err != nil && cshim.SocketEaddrinuse(err) {
		if cshim.CanConnect(address) {
			return &socket{address: address}, nil
		}
		// Its shim died without removing it.
		if err := cshim.RemoveSocket(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("shim socket %s: %w", address, err)
		}
		l, err = cshim.NewSocket(address)
	}
	if err != nil {
		return nil, fmt.Errorf("shim socket %s: %w", address, err)
	}
	// The listener's end in this process must not take the file with it.
	l.SetUnlinkOnClose(false)
	return &socket{address: address, listener: l}, nil
}

func (s *socket) remove() error {
	if err := cshim.RemoveSocket(s.address); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("shim socket: %w", err)
	}
	return nil
}
