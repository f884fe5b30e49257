// Package node is the client's side of the node API: where the socket is, which
// version is spoken, how a refusal reads. The messages are in node/v1.
package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// Socket is where the agent serves the node API. It is not configurable: a
// shim must find its agent without reading a file somebody could swap.
const Socket = "/run/sealift/node.sock"

// Version is the minor version of package sealift.node.v1 this build speaks.
const Version = 1

// DialTimeout bounds connecting and the exchange of versions with an agent that
// does nothing, so that a start without an agent is refused within two seconds.
const DialTimeout = time.Second

// Client is a connection to the agent. Close may be called more than once.
type Client struct {
	nodev1.NodeClient
	// Agent is what the agent said of itself.
	Agent *nodev1.HelloResponse

	conn *ttrpc.Client
	pid  int
}

// Dial connects to the agent at path (Socket when empty) and exchanges
// versions; name is "shim" or "cli". Its error is an *UnavailableError when no
// agent answers.
func Dial(ctx context.Context, path, name, build string) (*Client, error) {
	if path == "" {
		path = Socket
	}
	d := net.Dialer{Timeout: DialTimeout}
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, &UnavailableError{Socket: path, Err: err}
	}
	pid, err := server(c.(*net.UnixConn))
	if err != nil {
		c.Close()
		return nil, &UnavailableError{Socket: path, Err: err}
	}
	conn := ttrpc.NewClient(c)
	cl := &Client{NodeClient: nodev1.NewNodeClient(conn), conn: conn, pid: pid}
	if err := cl.Answering(ctx, func(ctx context.Context) (err error) {
		cl.Agent, err = cl.Hello(ctx, &nodev1.HelloRequest{Version: Version, Client: name, Build: build})
		return err
	}); err != nil {
		conn.Close()
		return nil, &UnavailableError{Socket: path, Err: err}
	}
	return cl, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// UnavailableError says that no agent answered at the socket.
type UnavailableError struct {
	Socket string
	Err    error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("sealift agent at %s: %v\nhint: systemctl status sealiftd; nothing starts while the agent is away", e.Socket, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }
