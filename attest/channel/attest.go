package channel

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"time"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
)

// question is a request that was sent.
type question struct {
	nonce     []byte
	issued    time.Time
	appraisal Appraisal
}

// ask requests a proof for a fresh nonce, from where our checkpoint stands.
func (c *Conn) ask() (*question, error) {
	var q request
	rand.Read(q.nonce[:])
	asked := &question{nonce: q.nonce[:], issued: c.endpoint.cfg.Clock(), appraisal: c.endpoint.cfg.Appraiser.Begin(c.peerAK)}
	q.from = asked.appraisal.From()
	c.mu.Lock()
	c.round++
	q.round = c.round
	c.in.wanted = q.round
	c.mu.Unlock()
	if err := c.send(kindRequest, q.encode()); err != nil {
		return nil, err
	}
	return asked, nil
}

// appraise waits for the proof and judges it.
func (c *Conn) appraise(ctx context.Context, asked *question, limit time.Duration) error {
	e := c.endpoint
	p, err := await(ctx, c, c.proofs, limit)
	if err != nil {
		return err
	}
	defer e.guard.drop(c.from, int64(len(p.evidence)))
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel)
	defer stop()
	release, err := e.guard.hear(ctx, c.server && c.Verdict() == nil)
	if err != nil {
		return err
	}
	v, err := judge(ctx, asked.appraisal, p.evidence, verify.Expect{Issued: asked.issued, Host: c.target.Host, Binding: evidence.Binding{
		Purpose:       evidence.Channel,
		Exporter:      c.exporter,
		VerifierNonce: asked.nonce,
		OwnNonce:      p.nonce[:],
		OwnSPKI:       c.peerSPKI,
		PeerSPKI:      e.spki,
		AKName:        c.peerAK,
	}})
	release()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return &Error{Peer: c.peer, Phase: PhaseAppraise, Reason: err.Error(), Err: err, ours: true,
			Hint: "is the peer's agent of a version this one can judge?"}
	}
	refuse := func(reason, hint string) error {
		return &Error{Peer: c.peer, Phase: PhaseAppraise, Reason: reason, Hint: hint, Verdict: v}
	}
	before := c.Verdict()
	switch {
	case v.Result != verify.Trusted:
		return refuse(fault(v))
	case c.target.Host != "" && v.Host != c.target.Host:
		return refuse(fmt.Sprintf("the peer is %q, wanted %q", v.Host, c.target.Host), "does the address belong to that host?")
	case before != nil && v.Host != before.Host:
		return refuse(fmt.Sprintf("the peer was %q and is now %q", before.Host, v.Host), "")
	}
	c.mu.Lock()
	c.verdict = v
	c.mu.Unlock()
	return nil
}

// judge calls the appraiser. It reads what a stranger wrote: a panic there is
// a refusal, and not the end of the agent.
func judge(ctx context.Context, a Appraisal, text []byte, want verify.Expect) (v *verify.Verdict, err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("appraisal panicked", "panic", p, "stack", string(debug.Stack()))
			v, err = nil, errors.New("internal error in the appraisal")
		}
	}()
	v, err = a.Appraise(ctx, text, want)
	if err == nil && v == nil {
		err = errors.New("no verdict")
	}
	return v, err
}

// accept tells the peer that its latest proof is good.
func (c *Conn) accept() error {
	c.mu.Lock()
	round := c.round
	c.mu.Unlock()
	return c.send(kindAccept, binary.BigEndian.AppendUint32(nil, round))
}

// prove answers a request; payer is whom the quote is counted for.
func (c *Conn) prove(ctx context.Context, q request, payer []byte) error {
	e := c.endpoint
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Limits.Proof)
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel)
	defer stop()
	text, nonce, err := c.quote(ctx, q, payer)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.in.answered = q.round
	c.mu.Unlock()
	p := proof{round: q.round, size: uint32(len(text))}
	copy(p.nonce[:], nonce)
	if err := c.sendBy(ctx, kindEvidence, p.encode()); err != nil {
		return err
	}
	for len(text) > 0 {
		n := min(len(text), maxPiece)
		if err := c.sendBy(ctx, kindChunk, text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

func (c *Conn) quote(ctx context.Context, q request, payer []byte) (text, nonce []byte, err error) {
	e := c.endpoint
	release, err := e.guard.turn(ctx, payer)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	nonce = make([]byte, nonceSize)
	rand.Read(nonce)
	text, err = e.cfg.Prover.Prove(ctx, evidence.Binding{
		Purpose:       evidence.Channel,
		Exporter:      c.exporter,
		VerifierNonce: q.nonce[:],
		OwnNonce:      nonce,
		OwnSPKI:       e.spki,
		PeerSPKI:      c.peerSPKI,
		AKName:        e.cfg.AKName,
	}, q.from)
	switch {
	case err != nil:
		return nil, nil, &Error{Peer: c.peer, Phase: PhaseProve, Reason: err.Error(), Err: err, ours: true, Hint: "sealift doctor says whether the TPM answers"}
	case len(text) == 0 || int64(len(text)) > math.MaxUint32:
		return nil, nil, &Error{Peer: c.peer, Phase: PhaseProve, Reason: fmt.Sprintf("own evidence is %d bytes long", len(text)), ours: true}
	}
	return text, nonce, nil
}

// serveProofs answers the peer's later requests, one at a time.
func (c *Conn) serveProofs() {
	for {
		select {
		case q := <-c.requests:
			if err := c.prove(c.ctx, q, c.peerAK); err != nil {
				c.fail(PhaseAgain, err)
				return
			}
		case <-c.ctx.Done():
			return
		}
	}
}

// wantProofs has the peer prove itself again, in time or when asked.
func (c *Conn) wantProofs() {
	timer := time.NewTimer(c.endpoint.cfg.Interval)
	defer timer.Stop()
	for {
		var asked chan struct{}
		select {
		case <-timer.C:
		case asked = <-c.demands:
		case <-c.ctx.Done():
			return
		}
		start := c.endpoint.cfg.Clock()
		if err := c.again(start); err != nil {
			c.fail(PhaseAgain, err)
			return
		}
		if asked != nil {
			close(asked)
		}
		// Reset drains what fired meanwhile (Go 1.23).
		timer.Reset(c.endpoint.cfg.Interval - c.endpoint.cfg.Clock().Sub(start))
	}
}

// again is one later round; it counts from when the peer was asked.
func (c *Conn) again(start time.Time) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.endpoint.cfg.Patience)
	defer cancel()
	asked, err := c.ask()
	if err != nil {
		return err
	}
	if err := c.appraise(ctx, asked, c.endpoint.cfg.Patience); err != nil {
		return err
	}
	c.mu.Lock()
	c.provenLocked(start)
	c.mu.Unlock()
	return c.accept()
}

// Attest has the peer prove itself now and returns the verdict. A proof that is
// under way already is not enough: its nonce is older than the question. When
// the verdict falls the channel has ended, and the error is the *Error with it.
func (c *Conn) Attest(ctx context.Context) (*verify.Verdict, error) {
	done := make(chan struct{})
	select {
	case c.demands <- done:
	case <-c.ctx.Done():
		return nil, c.Err()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case <-done:
		return c.Verdict(), nil
	case <-c.ctx.Done():
		return nil, c.Err()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Verdict is the latest good one on the peer; nil while there is none.
func (c *Conn) Verdict() *verify.Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.verdict
}

// AKName is the TPM name of the peer's AK.
func (c *Conn) AKName() []byte { return bytes.Clone(c.peerAK) }
