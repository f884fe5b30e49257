package agent

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/enroll"
	"github.com/sealift/sealift/attest/key"
)

// enroller is the host's side of enrolment. The agent never speaks to a CA: the
// messages cross by the hand of whoever asked.
type enroller struct {
	mu sync.Mutex
	// ek is kept between the steps: some TPMs take seconds to make it.
	ek *key.EK
}

// host gathers the keys under the name. The caller has e.mu.
func (e *enroller) host(ctx context.Context, p *prover, name string) (*enroll.Host, error) {
	ak, err := p.attestationKey(ctx)
	if err != nil {
		return nil, err
	}
	if e.ek == nil {
		if e.ek, err = key.EndorsementKey(ctx, p.device); err != nil {
			return nil, err
		}
	}
	return &enroll.Host{Device: p.device, AK: ak, EK: e.ek, Name: name}, nil
}

// certificates are those that this host holds for the key, leaf first, by the
// AK-CA and by its owner; empty where there is none. One that is for a key of
// before the TPM was cleared is none.
func certificates(dir string, ak *key.Public) (platform, owner [][]byte, err error) {
	for _, x := range []struct {
		kind certificate.Kind
		to   *[][]byte
	}{{certificate.Platform, &platform}, {certificate.Owner, &owner}} {
		c, err := enroll.Load(dir, x.kind)
		if err != nil {
			return nil, nil, err
		}
		if c != nil && bytes.Equal(c.Statement.Name, ak.Name()) {
			*x.to = [][]byte{c.Result.Certificate, c.Authority}
		}
	}
	return platform, owner, nil
}

func (s *cliService) EnrollBegin(ctx context.Context, req *nodev1.EnrollBeginRequest) (*nodev1.EnrollBeginResponse, error) {
	p, name := s.a.prover, req.GetHost()
	if name == "" {
		kind := certificate.Kind(req.GetKind())
		if kind == "" {
			kind = certificate.Platform
		}
		c, err := enroll.Load(p.directory, kind)
		if err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		if c == nil {
			return nil, status.Errorf(codes.FailedPrecondition, "there is no %s certificate to renew\nhint: sealift enroll --host NAME", kind)
		}
		name = c.Statement.Host
	}
	e := &s.a.enroller
	e.mu.Lock()
	defer e.mu.Unlock()
	h, err := e.host(ctx, p, name)
	if err != nil {
		return nil, enrollStatus(err)
	}
	r := &nodev1.EnrollBeginResponse{Host: name, Problem: h.EK.Problem}
	if r.Request, err = h.Request(ctx, req.GetToken()); err != nil {
		return nil, enrollStatus(err)
	}
	public, err := key.ParsePublic(h.EK.Public)
	if err != nil {
		return nil, enrollStatus(err)
	}
	f, err := certificate.EKFingerprint(public.Key())
	if err != nil {
		return nil, enrollStatus(err)
	}
	r.EndorsementKey = f[:]
	return r, nil
}

func (s *cliService) EnrollAnswer(ctx context.Context, req *nodev1.EnrollAnswerRequest) (*nodev1.EnrollAnswerResponse, error) {
	e := &s.a.enroller
	e.mu.Lock()
	defer e.mu.Unlock()
	h, err := e.host(ctx, s.a.prover, req.GetHost())
	if err != nil {
		return nil, enrollStatus(err)
	}
	b, err := h.Answer(ctx, req.GetChallenge())
	if err != nil {
		e.ek = nil // it may have been of a TPM that was cleared since
		return nil, enrollStatus(err)
	}
	return &nodev1.EnrollAnswerResponse{Answer: b}, nil
}

func (s *cliService) EnrollFinish(ctx context.Context, req *nodev1.EnrollFinishRequest) (*nodev1.EnrollFinishResponse, error) {
	p := s.a.prover
	ak, err := p.attestationKey(ctx)
	if err != nil {
		return nil, enrollStatus(err)
	}
	c, err := enroll.Check(req.GetResult(), ak.Public, req.GetAuthorityFingerprint())
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if err := c.Store(p.directory); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	x := c.Statement.Certificate
	return &nodev1.EnrollFinishResponse{
		Host: c.Statement.Host, Class: string(c.Statement.Class), Kind: string(c.Statement.Kind),
		Serial: hex.EncodeToString(x.SerialNumber.Bytes()), Authority: x.Issuer.CommonName,
		AuthorityFingerprint: c.Fingerprint(), NotAfterUnix: x.NotAfter.Unix(),
	}, nil
}

// enrollStatus tells a TPM that is of another host from one that does not answer.
func enrollStatus(err error) error {
	var other *key.OtherTPMError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &other):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.As(err, &timeout) && timeout.Timeout():
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.FailedPrecondition, fmt.Sprint(err))
}
