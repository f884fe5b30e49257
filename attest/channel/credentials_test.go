package channel

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sealift/sealift/api/peer"
)

// serveGRPC serves on loopback and tells of each call's channel.
func serveGRPC(t *testing.T, e *Endpoint, calls chan<- *Conn) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(e.Credentials(Target{})), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			c, err := FromContext(ctx)
			if err != nil {
				return nil, status.Error(codes.Unauthenticated, err.Error())
			}
			calls <- c
			return h(ctx, req)
		}))
	healthv1.RegisterHealthServer(s, health.NewServer())
	peer.Service(s, "test build")
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestGRPC(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	calls := make(chan *Conn, 10)
	addr := serveGRPC(t, b.endpoint(t, nil), calls)
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(a.endpoint(t, nil).Credentials(Target{Host: "b"})))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	r, err := peer.Hello(t.Context(), cc, "test")
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != peer.Version || r.Build != "test build" || len(r.Services) != 1 {
		t.Errorf("%v", r)
	}
	c := <-calls
	if c.Verdict().Host != "a" {
		t.Errorf("call by %v", c.Verdict())
	}

	// A stream is under way when the client's verdict falls.
	stream, err := healthv1.NewHealthClient(cc).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	a.good.Store(false)
	if _, err := c.Attest(t.Context()); err == nil {
		t.Fatal("a fallen verdict passes")
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("stream goes on: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = peer.Hello(ctx, cc, "test")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "policy violation of web in default") {
		t.Errorf("a call by a host that is not trusted: %v", err)
	}
	if len(calls) != 0 {
		t.Error("a call of an untrusted host reached the service")
	}
}

// What gRPC takes for a server is reached by nobody who does not speak the
// channel's protocol.
func TestGRPCWithoutChannel(t *testing.T) {
	w := newWorld()
	calls := make(chan *Conn, 1)
	addr := serveGRPC(t, w.host(t, "b").endpoint(t, nil), calls)
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	if _, err := peer.Hello(t.Context(), cc, "test"); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if _, err := FromContext(t.Context()); err == nil {
		t.Error("a context without a call has a channel")
	}
	if len(calls) != 0 {
		t.Error("a call without a channel reached the service")
	}
}
