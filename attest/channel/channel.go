// Package channel is a connection between two agents in which each has proven
// to the other what it booted and what it started, bound to that very
// connection, and goes on proving it for as long as the connection lasts.
//
// Below is TLS 1.3, mutual, with the keys that the agents hold in memory; the
// certificates carry these keys and claim nothing. After the handshake both
// sides take the TLS exporter, exchange fresh nonces and then evidence whose
// quote covers exporter, nonces and both keys: evidence from another
// connection, another time, another host or another purpose fits nowhere.
// Bytes of the application pass only while both verdicts are good.
//
// Evidence and application share the connection through a small record layer
// (frame.go) instead of a gRPC service beside the others: nothing above runs,
// not even an HTTP/2 parser, before the peer is trusted; what migration sends
// needs no gRPC; and since data has a window of its own, an application that
// does not read cannot hold up a proof.
//
// docs/attestation.md describes the protocol to the bit.
package channel

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
)

// Exporter label of RFC 8446, section 7.5, as RFC 9266 uses one; the context is
// empty and 32 bytes are taken.
const (
	ExporterLabel = "EXPORTER-sealift-attest-v1"
	exporterSize  = 32
)

// Protocol is the ALPN name (RFC 7301) of version 1. TLS protects the choice:
// a version cannot be talked down.
const Protocol = "sealift-attest/1"

// Place is where in a peer's log the wanted lines begin. The zero Place is
// the whole log.
type Place struct {
	Epoch [32]byte
	// Seq is the first wanted record.
	Seq uint64
}

// Prover makes this host's evidence: canonical bytes whose quote covers the
// binding. From is where the peer's checkpoint of this host stands; a prover
// whose log is of another epoch sends all of it. Prove is called for trusted
// peers, and by a client for the server it chose to call; it is never called
// twice at a time.
type Prover interface {
	Prove(ctx context.Context, b evidence.Binding, from Place) ([]byte, error)
}

// Appraiser judges what peers send; Judge is the one that a host has. It may be
// called for several peers at once.
type Appraiser interface {
	// Begin is called before each question to the host that says it has this
	// AK.
	Begin(akName []byte) Appraisal
}

// Appraisal is of one piece of evidence.
type Appraisal interface {
	// From says from where lines are wanted: the place after the checkpoint
	// that the verdict will build on.
	From() Place
	// Appraise judges evidence, which must be bound as want says, by the AK
	// that want names, and of its host. An error means that no verdict could
	// be made or kept.
	Appraise(ctx context.Context, text []byte, want verify.Expect) (*verify.Verdict, error)
}

// Config is what an Endpoint is made of.
type Config struct {
	// Key is the agent's channel key, ECDSA P-256, held in memory only.
	Key crypto.Signer
	// AKName is the TPM name of this host's AK.
	AKName    []byte
	Prover    Prover
	Appraiser Appraiser
	// Interval is between two proofs of a peer; 30 s when 0.
	Interval time.Duration
	// Patience is how long a peer may take for a proof that is due, from the
	// request to its last byte; three quarters of Interval when 0.
	Patience time.Duration
	// Limits bound what peers may cost; a zero field has its default.
	Limits Limits
	// Clock is time.Now when nil.
	Clock func() time.Time
}

// DefaultInterval is between two proofs of one peer.
const DefaultInterval = 30 * time.Second

// Endpoint opens channels for one agent; its limits hold for all of them
// together. It may be used by several goroutines.
type Endpoint struct {
	cfg   Config
	spki  []byte
	guard *guard
}

// New returns an endpoint, or an error that names the field that cannot be.
func New(cfg Config) (*Endpoint, error) {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Patience == 0 {
		cfg.Patience = cfg.Interval / 4 * 3
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	cfg.AKName = bytes.Clone(cfg.AKName)
	switch {
	case cfg.Key == nil:
		return nil, errors.New("channel: no key")
	case cfg.Prover == nil || cfg.Appraiser == nil:
		return nil, errors.New("channel: needs a prover and an appraiser")
	case len(cfg.AKName) == 0 || len(cfg.AKName) > maxAKName:
		return nil, fmt.Errorf("channel: AK name of %d bytes", len(cfg.AKName))
	case cfg.Interval < 0 || cfg.Patience < 0:
		return nil, fmt.Errorf("channel: interval %s, patience %s: not negative", cfg.Interval, cfg.Patience)
	}
	if k, ok := cfg.Key.Public().(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("channel: key is %T, wanted ECDSA P-256", cfg.Key.Public())
	}
	limits, err := cfg.Limits.filled()
	if err != nil {
		return nil, err
	}
	cfg.Limits = limits
	spki, err := x509.MarshalPKIXPublicKey(cfg.Key.Public())
	if err != nil {
		return nil, fmt.Errorf("channel: key: %w", err)
	}
	return &Endpoint{cfg: cfg, spki: spki, guard: newGuard(limits)}, nil
}
