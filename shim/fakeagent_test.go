package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// fakeAgent answers the two calls a shim makes. Each mode is one way an agent
// can behave.
type fakeAgent struct {
	nodev1.NodeService

	mu       sync.Mutex
	mode     string // "commit", "audit", "refuse", "refuse-reports", "hang", "stall"
	launches []*nodev1.LaunchRequest
	reports  []*nodev1.ReportRequest
}

var errFakeFull = errors.New("log: disk full")

func (a *fakeAgent) set(mode string) {
	a.mu.Lock()
	a.mode = mode
	a.mu.Unlock()
}

func (a *fakeAgent) now() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m, err := os.ReadFile(os.Getenv("SEALIFT_FAKE_AGENT_MODE")); err == nil {
		return strings.TrimSpace(string(m))
	}
	return a.mode
}

func (a *fakeAgent) Hello(ctx context.Context, _ *nodev1.HelloRequest) (*nodev1.HelloResponse, error) {
	if a.now() == "hang" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &nodev1.HelloResponse{Version: 1, Build: "fake"}, nil
}

func (a *fakeAgent) Launch(ctx context.Context, r *nodev1.LaunchRequest) (*nodev1.LaunchResponse, error) {
	a.mu.Lock()
	a.launches = append(a.launches, r)
	seq := uint64(len(a.launches))
	a.mu.Unlock()
	reason := &nodev1.Reason{Code: "layer-content", Layer: "sha256:3f5c", Path: "bin/busybox", Message: "content differs", Wanted: "11aa", Found: "22bb", Hint: "pull the image again"}
	switch a.now() {
	case "refuse":
		return &nodev1.LaunchResponse{Outcome: &nodev1.LaunchResponse_Refused{Refused: &nodev1.Refused{Seq: seq, Reasons: []*nodev1.Reason{reason}}}}, nil
	case "audit":
		return &nodev1.LaunchResponse{Outcome: &nodev1.LaunchResponse_Committed{Committed: &nodev1.Committed{Seq: seq, WouldRefuse: []*nodev1.Reason{reason}}}}, nil
	case "stall":
		a.set("hang")
		<-ctx.Done()
		return nil, ctx.Err()
	case "slow":
		time.Sleep(3 * time.Second)
	}
	return &nodev1.LaunchResponse{Outcome: &nodev1.LaunchResponse_Committed{Committed: &nodev1.Committed{Seq: seq}}}, nil
}

func (a *fakeAgent) Report(_ context.Context, r *nodev1.ReportRequest) (*nodev1.ReportResponse, error) {
	a.mu.Lock()
	a.reports = append(a.reports, r)
	n := len(a.reports)
	a.mu.Unlock()
	if os.Getenv("SEALIFT_FAKE_AGENT") != "" {
		fmt.Println(r.GetKind(), r.GetNamespace(), r.GetId(), r.GetExecId(), r.GetPid(), r.GetExitStatus(), string(r.GetDetail()))
	}
	if a.now() == "refuse-reports" {
		return nil, errFakeFull
	}
	return &nodev1.ReportResponse{Seq: uint64(n)}, nil
}

func (a *fakeAgent) kinds() []nodev1.ReportKind {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []nodev1.ReportKind
	for _, r := range a.reports {
		out = append(out, r.GetKind())
	}
	return out
}

// serve serves the agent at path until the returned function is called.
func (a *fakeAgent) serve(path string) (func(), error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	nodev1.RegisterNodeService(srv, a)
	go srv.Serve(context.Background(), l)
	return func() { srv.Close() }, nil
}

func startFakeAgent(t *testing.T, mode string) (*fakeAgent, string) {
	t.Helper()
	a := &fakeAgent{mode: mode}
	path := filepath.Join(t.TempDir(), "node.sock")
	stop, err := a.serve(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return a, path
}

// TestMain lets a person run this binary as an agent that says what the file
// $SEALIFT_FAKE_AGENT_MODE holds, to try the shim by hand.
func TestMain(m *testing.M) {
	if os.Getenv(asShim) != "" {
		os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	if path := os.Getenv("SEALIFT_FAKE_AGENT"); path != "" {
		if _, err := (&fakeAgent{mode: "commit"}).serve(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		select {}
	}
	os.Exit(m.Run())
}
