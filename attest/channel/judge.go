package channel

import (
	"context"
	"fmt"
	"time"

	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
)

// Grounds are what a verdict stands on besides the evidence.
type Grounds struct {
	Trust *trust.Policy
	// Revocation lists, DER or PEM, as verify.Input has them.
	Revocation [][]byte
}

// Judge appraises peers' evidence with attest/verify, each time on the grounds
// of the day, and keeps checkpoints, so that a later proof costs what is new
// and no host goes back behind what it has proven.
type Judge struct {
	// Grounds is asked for each verdict: files may have changed.
	Grounds func() (Grounds, error)
	// Checkpoints keeps them beyond this run; nil: only in memory.
	Checkpoints *Checkpoints
}

var _ Appraiser = (*Judge)(nil)

// Begin implements Appraiser. A host whose checkpoint cannot be read is asked
// for all of its log, and refused with the reason.
func (j *Judge) Begin(akName []byte) Appraisal {
	a := &judgement{judge: j, akName: akName}
	if j.Checkpoints != nil {
		a.prior, a.err = j.Checkpoints.Load(akName)
	}
	return a
}

type judgement struct {
	judge  *Judge
	akName []byte
	prior  *verify.Checkpoint
	err    error
}

func (a *judgement) From() Place {
	if a.prior == nil {
		return Place{}
	}
	return Place{Epoch: a.prior.Mark.Epoch, Seq: a.prior.Mark.Seq + 1}
}

func (a *judgement) Appraise(_ context.Context, text []byte, want verify.Expect) (*verify.Verdict, error) {
	if a.err != nil {
		return nil, a.err
	}
	g, err := a.judge.Grounds()
	if err != nil {
		return nil, fmt.Errorf("grounds of the verdict: %w", err)
	}
	v := verify.Appraise(verify.Input{
		Evidence: text, Trust: g.Trust, Now: time.Now(), Prior: a.prior, Revocation: g.Revocation, Expect: want,
	})
	// A host that is not trusted is remembered as well: what it has proven it
	// cannot take back.
	if v.Next != nil && a.judge.Checkpoints != nil {
		if err := a.judge.Checkpoints.Store(a.akName, v.Next); err != nil {
			return nil, err
		}
	}
	return v, nil
}
