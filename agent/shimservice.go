package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealift/sealift/agent/launch"
	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/fault"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/gate"
	"github.com/sealift/sealift/policy"
)

// shimService is what a shim may ask for.
type shimService struct {
	forbiddenService
	a *Agent
}

var _ nodev1.NodeService = (*shimService)(nil)

func (s *shimService) Hello(context.Context, *nodev1.HelloRequest) (*nodev1.HelloResponse, error) {
	return &nodev1.HelloResponse{Version: node.Version, Build: s.a.build}, nil
}

// Launch examines, decides, records, and only then answers.
func (s *shimService) Launch(ctx context.Context, req *nodev1.LaunchRequest) (*nodev1.LaunchResponse, error) {
	if err := fault.Point("launch.received"); err != nil {
		return nil, err
	}
	a := s.a
	start := time.Now()
	leave := a.gather.enter()
	f := a.examiner.Examine(ctx, req)
	leave()
	a.gather.wait(ctx)
	if err := fault.Point("launch.measured"); err != nil {
		return nil, err
	}
	// A log that cannot be trusted is one more thing that enforce refuses and
	// audit records.
	if r := a.log.State(); !r.AllowsStarts() && r.Name != eventlog.Unavailable {
		f.Facts.Content = append(f.Facts.Content, stateReason(r))
	}
	v := gate.Decide(f.Facts, f.Effective)
	f.Record.SetVerdict(v.Reasons, v.WouldRefuse)
	// From here on they are for people: the record has the names' own bytes.
	v.Reasons, v.WouldRefuse = node.Sendable(v.Reasons), node.Sendable(v.WouldRefuse)
	log := slog.With("namespace", req.GetNamespace(), "container", req.GetId())

	recording := time.Now()
	if !v.Allowed {
		seq, err := a.log.Append(ctx, eventlog.Event{Type: "refusal", Namespace: tenant(req), Container: bounded(req.GetId()), Body: f.Record, Reserved: true})
		a.gather.took(time.Since(recording))
		if err != nil {
			// It stays a refusal; that it could not be recorded is one more reason.
			v.Reasons = append(v.Reasons, logReason(err))
		}
		log.Warn("refused", "phase", "launch", "seq", seq, "reasons", node.FormatReasons(v.Reasons))
		return refused(seq, v.Reasons), nil
	}
	seq, err := a.log.Append(ctx, eventlog.Event{Type: "launch", Namespace: req.GetNamespace(), Container: req.GetId(), Body: f.Record,
		Salted: map[string][]byte{"spec": req.GetSpec()}, Start: f.Effective.Content == policy.Enforce})
	if err != nil {
		log.Error("not recorded", "phase", "launch", "err", err)
		return refused(0, []*nodev1.Reason{logReason(err)}), nil
	}
	a.gather.took(time.Since(recording))
	if err := a.admit(req, f, seq, len(v.WouldRefuse) > 0); err != nil {
		log.Error("not remembered", "phase", "launch", "err", err)
		return refused(0, []*nodev1.Reason{{Code: "state", Subject: "agent state", Message: err.Error(), Hint: "see whether /run and /var/lib/sealift have space left"}}), nil
	}
	log.Info("committed", "phase", "launch", "seq", seq, "class", f.Record.Root.Class, "took", time.Since(start))
	if err := fault.Point("launch.before-reply"); err != nil {
		return nil, err
	}
	return &nodev1.LaunchResponse{Outcome: &nodev1.LaunchResponse_Committed{Committed: &nodev1.Committed{Seq: seq, WouldRefuse: v.WouldRefuse}}}, nil
}

// admit remembers a committed container.
func (a *Agent) admit(req *nodev1.LaunchRequest, f *launch.Finding, seq uint64, wouldRefuse bool) error {
	c := &container{Namespace: req.GetNamespace(), ID: req.GetId(), Class: f.Record.Root.Class, Seq: seq, State: "created", WouldRefuse: wouldRefuse}
	if f.Record.Image != nil {
		c.Image, c.Manifest = f.Record.Image.Name, f.Record.Image.Manifest
	}
	if f.Record.Checkpoint {
		var err error
		if c.Cgroups, err = expectedCgroups(f.Spec, req.GetSystemdCgroup()); err != nil {
			return err
		}
	}
	if f.Watched != nil {
		f.Watched.Seq = seq
		if err := a.examiner.Watch.Put(f.Watched); err != nil {
			return err
		}
	}
	return a.registry.put(c)
}

func refused(seq uint64, reasons []*nodev1.Reason) *nodev1.LaunchResponse {
	return &nodev1.LaunchResponse{Outcome: &nodev1.LaunchResponse_Refused{Refused: &nodev1.Refused{Seq: seq, Reasons: node.Sendable(reasons)}}}
}

// tenant is whose log space a refusal costs: the namespace, where it is one.
func tenant(req *nodev1.LaunchRequest) string { return bounded(req.GetNamespace()) }

// bounded keeps a hostile name from filling a record.
func bounded(s string) string {
	if len(s) > 128 {
		return s[:128]
	}
	return s
}

func stateReason(s eventlog.State) *nodev1.Reason {
	return &nodev1.Reason{Code: "log-state", Subject: "event log", Message: fmt.Sprintf("is %s: %s", s.Name, s.Reason),
		Hint: s.Hint()}
}

// logReason renders a failed append.
func logReason(err error) *nodev1.Reason {
	code := "log"
	var quota *eventlog.QuotaError
	var away *eventlog.UnavailableError
	switch {
	case errors.As(err, &quota):
		code = "log-quota"
	case errors.As(err, &away):
		code = "log-" + string(away.State.Cause)
	}
	message, hint, _ := strings.Cut(err.Error(), "\nhint: ")
	return &nodev1.Reason{Code: code, Subject: "not recorded", Message: message, Hint: hint}
}

// reportTypes are the events that a shim reports, and the state each leaves the
// container in.
var reportTypes = map[nodev1.ReportKind]struct{ event, state string }{
	nodev1.ReportKind_REPORT_KIND_STARTED:       {"started", "running"},
	nodev1.ReportKind_REPORT_KIND_EXEC:          {"exec", ""},
	nodev1.ReportKind_REPORT_KIND_UPDATE:        {"update", ""},
	nodev1.ReportKind_REPORT_KIND_CHECKPOINT:    {"checkpoint", ""},
	nodev1.ReportKind_REPORT_KIND_EXIT:          {"exit", "stopped"},
	nodev1.ReportKind_REPORT_KIND_EXEC_EXIT:     {"exec-exit", ""},
	nodev1.ReportKind_REPORT_KIND_DELETED:       {"deleted", "stopped"},
	nodev1.ReportKind_REPORT_KIND_CREATE_FAILED: {"create-failed", "stopped"},
}

// reportBody is the body of the events that a shim reports.
type reportBody struct {
	Exec string `json:"exec,omitempty"`
	PID  uint32 `json:"pid,omitempty"`
	// Status is the exit status; At the time by the host's clock.
	Status *uint32 `json:"status,omitempty"`
	At     string  `json:"at,omitempty"`
	Path   string  `json:"path,omitempty"`
}

func (s *shimService) Report(ctx context.Context, req *nodev1.ReportRequest) (*nodev1.ReportResponse, error) {
	t, ok := reportTypes[req.GetKind()]
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "report of kind %s: not known", req.GetKind())
	}
	a := s.a
	if _, ok := a.registry.get(req.GetNamespace(), req.GetId()); !ok {
		a.denied(fmt.Errorf("report of %s for container %.80q/%.80q, which was never launched", t.event, req.GetNamespace(), req.GetId()))
		return nil, status.Errorf(codes.FailedPrecondition, "container %s/%s was not launched through this agent\nhint: delete it and create it again", req.GetNamespace(), req.GetId())
	}
	body := reportBody{Exec: bounded(req.GetExecId()), PID: req.GetPid(), Path: req.GetPath()}
	if req.GetAtUnixNano() != 0 {
		body.At = time.Unix(0, req.GetAtUnixNano()).UTC().Format(time.RFC3339Nano)
	}
	var cgroups []string
	switch req.GetKind() {
	case nodev1.ReportKind_REPORT_KIND_EXIT, nodev1.ReportKind_REPORT_KIND_EXEC_EXIT, nodev1.ReportKind_REPORT_KIND_DELETED:
		st := req.GetExitStatus()
		body.Status = &st
	case nodev1.ReportKind_REPORT_KIND_STARTED:
		if req.GetPid() != 0 {
			var err error
			if cgroups, err = ownCgroups(int(req.GetPid())); err != nil {
				return nil, status.Errorf(codes.FailedPrecondition, "init process %d of %s/%s: %v", req.GetPid(), req.GetNamespace(), req.GetId(), err)
			}
		}
	}
	e := eventlog.Event{Type: t.event, Namespace: req.GetNamespace(), Container: req.GetId(), Body: body, Reserved: t.state == "stopped"}
	if req.GetKind() == nodev1.ReportKind_REPORT_KIND_EXEC || req.GetKind() == nodev1.ReportKind_REPORT_KIND_EXEC_EXIT {
		// Probes run the same command over and over.
		e.Coalesce = fmt.Sprintf("%s %d", t.event, req.GetExitStatus())
	}
	if len(req.GetDetail()) > 0 {
		e.Salted = map[string][]byte{"detail": req.GetDetail()}
	}
	seq, err := a.log.Append(ctx, e)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "%s of %s/%s is not recorded: %v", t.event, req.GetNamespace(), req.GetId(), err)
	}
	if req.GetKind() == nodev1.ReportKind_REPORT_KIND_DELETED || req.GetKind() == nodev1.ReportKind_REPORT_KIND_CREATE_FAILED {
		err = a.registry.remove(req.GetNamespace(), req.GetId())
	} else {
		_, err = a.registry.update(req.GetNamespace(), req.GetId(), func(c *container) {
			if t.state != "" {
				c.State = t.state
			}
			if req.GetKind() == nodev1.ReportKind_REPORT_KIND_STARTED && req.GetPid() != 0 {
				c.PID, c.Cgroups = req.GetPid(), cgroups
			}
		})
	}
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "%s of %s/%s: %v", t.event, req.GetNamespace(), req.GetId(), err)
	}
	return &nodev1.ReportResponse{Seq: seq}, nil
}
