package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealift/sealift/agent/peer"
	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// maxConnections bounds how many peers may be connected: two for each of some
// thousand shims.
const maxConnections = 4096

// server takes connections on the node socket, identifies the peer of each and
// hands it to the service of the peer's role.
type server struct {
	listener *net.UnixListener
	checker  *peer.Checker
	denied   func(error)
	roles    map[peer.Role]*dispatch
	slots    chan struct{}
}

// dispatch is a ttrpc server that is fed connections one by one.
type dispatch struct {
	ttrpc *ttrpc.Server
	conns *feed
}

func listen(path string) (*net.UnixListener, error) {
	// A socket left by an agent that died; two agents are kept apart by the
	// event log's lock.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("node socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("node socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("node socket: %w", err)
	}
	return l, nil
}

func newServer(l *net.UnixListener, c *peer.Checker, services map[peer.Role]nodev1.NodeService, denied func(error)) (*server, error) {
	s := &server{listener: l, checker: c, denied: denied, roles: map[peer.Role]*dispatch{}, slots: make(chan struct{}, maxConnections)}
	for role, svc := range services {
		t, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(recoverPanic))
		if err != nil {
			return nil, fmt.Errorf("node socket: %w", err)
		}
		nodev1.RegisterNodeService(t, svc)
		s.roles[role] = &dispatch{ttrpc: t, conns: newFeed(l.Addr())}
	}
	return s, nil
}

// serve runs until ctx ends.
func (s *server) serve(ctx context.Context) error {
	var wg sync.WaitGroup
	for role, d := range s.roles {
		wg.Go(func() {
			if err := d.ttrpc.Serve(ctx, d.conns); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
				slog.Error("node socket", "role", role, "err", err)
			}
		})
	}
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			for _, d := range s.roles {
				d.ttrpc.Close()
				d.conns.Close()
			}
			wg.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("node socket: %w", err)
		}
		select {
		case s.slots <- struct{}{}:
			go s.take(conn)
		default:
			conn.Close()
			s.denied(fmt.Errorf("node socket: %d connections are open, which is the limit", maxConnections))
		}
	}
}

func (s *server) take(conn *net.UnixConn) {
	p, err := s.checker.Check(conn)
	if err != nil {
		conn.Close()
		<-s.slots
		s.denied(err)
		return
	}
	s.roles[p.Role].conns.give(&slotConn{Conn: conn, slots: s.slots})
}

// slotConn gives its slot back when it is closed.
type slotConn struct {
	net.Conn
	once  sync.Once
	slots chan struct{}
}

func (c *slotConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.slots })
	return err
}

// feed is a net.Listener whose connections are given to it.
type feed struct {
	addr net.Addr
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newFeed(addr net.Addr) *feed {
	return &feed{addr: addr, ch: make(chan net.Conn), done: make(chan struct{})}
}

func (f *feed) give(c net.Conn) {
	select {
	case f.ch <- c:
	case <-f.done:
		c.Close()
	}
}

func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.ch:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

func (f *feed) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

func (f *feed) Addr() net.Addr { return f.addr }

// recoverPanic makes a request that panics an error: one hostile message must
// not take the agent from everybody else. The request itself is refused.
func recoverPanic(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, m ttrpc.Method) (_ any, err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("request panicked", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "%s: internal error", info.FullMethod)
		}
	}()
	return m(ctx, u)
}
