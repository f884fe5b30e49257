package channel

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Credentials make gRPC speak over channels. A client's are for one target; a
// server's target is empty. The server needs no other bound on its handshakes
// than the endpoint's.
func (e *Endpoint) Credentials(t Target) credentials.TransportCredentials {
	return &transport{endpoint: e, target: t}
}

// AuthInfo is what gRPC knows of the peer.
type AuthInfo struct {
	credentials.CommonAuthInfo
	Conn *Conn
}

// AuthType implements credentials.AuthInfo.
func (AuthInfo) AuthType() string { return "sealift-attest" }

// ValidateAuthority implements credentials.AuthorityValidator: a name in a call
// says nothing, evidence does.
func (AuthInfo) ValidateAuthority(string) error {
	return errors.New("the authority of an attested channel cannot be overridden")
}

// FromContext is the channel that a gRPC call came over. Its error says that
// there is none, or that its peer is no longer trusted: a service asks before
// each step that needs trust.
func FromContext(ctx context.Context) (*Conn, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("call without a peer")
	}
	a, ok := p.AuthInfo.(AuthInfo)
	if !ok {
		return nil, errors.New("call over something else than an attested channel")
	}
	return a.Conn, a.Conn.Err()
}

type transport struct {
	endpoint *Endpoint
	target   Target
}

var _ credentials.TransportCredentials = (*transport)(nil)

func info(c *Conn) credentials.AuthInfo {
	return AuthInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, Conn: c}
}

func (t *transport) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := t.endpoint.Client(ctx, raw, t.target)
	if err != nil {
		return nil, nil, err
	}
	return c, info(c), nil
}

func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	// Each phase has its own limit of time.
	c, err := t.endpoint.Server(context.Background(), raw)
	if err != nil {
		return nil, nil, err
	}
	return c, info(c), nil
}

func (t *transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "sealift-attest"}
}

func (t *transport) Clone() credentials.TransportCredentials {
	clone := *t
	return &clone
}

// OverrideServerName does nothing: names are proven by evidence. gRPC does not
// call it.
func (t *transport) OverrideServerName(string) error { return nil }
