package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealift/sealift/agent/inventory"
	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/policy"
)

// cliService is what root's CLI may ask for.
type cliService struct {
	forbiddenService
	a *Agent
}

var _ nodev1.NodeService = (*cliService)(nil)

func (s *cliService) Hello(context.Context, *nodev1.HelloRequest) (*nodev1.HelloResponse, error) {
	return &nodev1.HelloResponse{Version: node.Version, Build: s.a.build}, nil
}

func (s *cliService) Status(ctx context.Context, _ *nodev1.StatusRequest) (*nodev1.StatusResponse, error) {
	a := s.a
	st := a.log.State()
	r := &nodev1.StatusResponse{
		Build: a.build, StartedUnixNano: a.started.UnixNano(),
		Tpm: a.tpmStatus(ctx),
		Log: &nodev1.Log{State: string(st.Name), Reason: st.Reason, Epoch: st.Epoch.String(), Seq: st.Seq, Batches: st.Batches,
			Head: headText(st), Directory: a.config.Log.Directory, Cause: string(st.Cause), Hint: st.Hint(), Acknowledged: st.Acknowledged},
		Images: a.images.list(),
	}
	for _, c := range a.registry.list() {
		r.Containers = append(r.Containers, c.proto())
	}
	a.mu.Lock()
	for _, b := range a.bypassing {
		r.Bypassing = append(r.Bypassing, b.proto())
	}
	a.mu.Unlock()
	for _, p := range a.policies.Load().Policies() {
		r.Policies = append(r.Policies, &nodev1.Policy{Name: p.Name, Digest: p.Digest, File: p.File})
	}
	return r, nil
}

func (a *Agent) tpmStatus(ctx context.Context) *nodev1.Tpm {
	t := &nodev1.Tpm{Device: a.device.Path(), Class: string(a.device.Class()), Pcr: uint32(a.config.TPM.PCR), Values: map[string]string{}}
	p, err := a.device.Properties(ctx)
	if err != nil {
		// A status is wanted most when something is broken.
		t.Error = err.Error()
		return t
	}
	t.Manufacturer, t.Firmware = p.Manufacturer, p.Firmware
	values, err := a.device.ReadPCR(ctx, a.config.TPM.PCR)
	if err != nil {
		t.Error = err.Error()
		return t
	}
	for bank, v := range values {
		t.Values[bank.String()] = fmt.Sprintf("%x", v)
	}
	return t
}

// headText shows the PCR value that the log explains, of the SHA-256 bank where
// there is one.
func headText(st eventlog.State) string {
	first := ""
	for bank, v := range st.Head {
		if text := fmt.Sprintf("%s:%x", bank, v); bank.String() == "sha256" || first == "" {
			first = text
		}
	}
	return first
}

func (s *cliService) Measure(ctx context.Context, req *nodev1.MeasureRequest, out nodev1.Node_MeasureServer) error {
	d, img, snapshotter, err := s.a.images.find(ctx, req.GetNamespace(), req.GetImage())
	if errors.Is(err, inventory.ErrNotFound) {
		return status.Error(codes.NotFound, err.Error())
	}
	if err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	reasons, err := s.a.images.measure(ctx, d, req.GetNamespace(), img, snapshotter, req.GetForce(), out.Send)
	if err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return out.Send(&nodev1.MeasureUpdate{State: "done", Digest: img.Manifest.String(), Reasons: node.Sendable(reasons)})
}

func (s *cliService) ImportReference(ctx context.Context, req *nodev1.ImportReferenceRequest) (*nodev1.ImportReferenceResponse, error) {
	v, err := s.a.signed.Load().Import(req.GetEnvelope(), time.Now())
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	body := importBody{Name: v.Bundle.Name, Version: v.Bundle.Version, Digest: v.Digest, SignedBy: v.SignedBy()}
	if _, err := s.a.log.Append(ctx, eventlog.Event{Type: "reference", Body: body}); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	r := &nodev1.ImportReferenceResponse{Name: v.Bundle.Name, Version: v.Bundle.Version}
	for _, i := range v.Bundle.Images {
		r.Images = append(r.Images, i.Manifest)
	}
	return r, nil
}

// importBody is the body of "reference": a signed bundle that is now believed.
type importBody struct {
	Name     string   `json:"name"`
	Version  uint64   `json:"version"`
	Digest   string   `json:"digest"`
	SignedBy []string `json:"signed_by"`
}

func (s *cliService) ExplainPolicy(_ context.Context, req *nodev1.ExplainPolicyRequest) (*nodev1.ExplainPolicyResponse, error) {
	subject := policy.Subject{Namespace: req.GetNamespace(), Image: req.GetImage(), ManifestDigest: req.GetDigest(), Labels: req.GetLabels()}
	subject.SignedBy = s.a.signedBy(subject.ManifestDigest)
	e := s.a.policies.Load().Evaluate(subject)
	return &nodev1.ExplainPolicyResponse{Effective: string(e.Canonical()), Digest: e.Digest(), Steps: e.Steps}, nil
}

func (s *cliService) Acknowledge(ctx context.Context, req *nodev1.AcknowledgeRequest) (*nodev1.AcknowledgeResponse, error) {
	if strings.TrimSpace(req.GetReason()) == "" {
		return nil, status.Error(codes.InvalidArgument, "an acknowledgement needs a reason: it stays in the log")
	}
	seq, err := s.a.log.Acknowledge(ctx, req.GetState(), req.GetReason())
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &nodev1.AcknowledgeResponse{Seq: seq}, nil
}
