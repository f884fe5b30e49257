package agent

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// forbiddenService refuses everything; a role's service embeds it and overrides
// what the role may do.
type forbiddenService struct{}

func deny(method string) error {
	return status.Errorf(codes.PermissionDenied, "%s: not for this peer", method)
}

func (forbiddenService) Hello(context.Context, *nodev1.HelloRequest) (*nodev1.HelloResponse, error) {
	return nil, deny("Hello")
}
func (forbiddenService) Launch(context.Context, *nodev1.LaunchRequest) (*nodev1.LaunchResponse, error) {
	return nil, deny("Launch")
}
func (forbiddenService) Report(context.Context, *nodev1.ReportRequest) (*nodev1.ReportResponse, error) {
	return nil, deny("Report")
}
func (forbiddenService) Status(context.Context, *nodev1.StatusRequest) (*nodev1.StatusResponse, error) {
	return nil, deny("Status")
}
func (forbiddenService) ReadLog(context.Context, *nodev1.ReadLogRequest, nodev1.Node_ReadLogServer) error {
	return deny("ReadLog")
}
func (forbiddenService) Measure(context.Context, *nodev1.MeasureRequest, nodev1.Node_MeasureServer) error {
	return deny("Measure")
}
func (forbiddenService) ImportReference(context.Context, *nodev1.ImportReferenceRequest) (*nodev1.ImportReferenceResponse, error) {
	return nil, deny("ImportReference")
}
func (forbiddenService) ExplainPolicy(context.Context, *nodev1.ExplainPolicyRequest) (*nodev1.ExplainPolicyResponse, error) {
	return nil, deny("ExplainPolicy")
}
func (forbiddenService) Acknowledge(context.Context, *nodev1.AcknowledgeRequest) (*nodev1.AcknowledgeResponse, error) {
	return nil, deny("Acknowledge")
}
func (forbiddenService) Attest(context.Context, *nodev1.AttestRequest, nodev1.Node_AttestServer) error {
	return deny("Attest")
}
func (forbiddenService) WatchPeers(context.Context, *nodev1.WatchPeersRequest, nodev1.Node_WatchPeersServer) error {
	return deny("WatchPeers")
}
func (forbiddenService) SetPeer(context.Context, *nodev1.Peer) (*nodev1.PeerResponse, error) {
	return nil, deny("SetPeer")
}
func (forbiddenService) RemovePeer(context.Context, *nodev1.Peer) (*nodev1.PeerResponse, error) {
	return nil, deny("RemovePeer")
}
func (forbiddenService) EnrollBegin(context.Context, *nodev1.EnrollBeginRequest) (*nodev1.EnrollBeginResponse, error) {
	return nil, deny("EnrollBegin")
}
func (forbiddenService) EnrollAnswer(context.Context, *nodev1.EnrollAnswerRequest) (*nodev1.EnrollAnswerResponse, error) {
	return nil, deny("EnrollAnswer")
}
func (forbiddenService) EnrollFinish(context.Context, *nodev1.EnrollFinishRequest) (*nodev1.EnrollFinishResponse, error) {
	return nil, deny("EnrollFinish")
}
