package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/go-runc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sealift/sealift/runtime"
)

// stockService stands for containerd's task service and notes what reaches it.
type stockService struct {
	taskapi.TTRPCTaskService

	mu      sync.Mutex
	calls   []string
	created []*taskapi.CreateTaskRequest
	// onCreate runs within Create, when runc would.
	onCreate func(*taskapi.CreateTaskRequest) error
	// onStart runs within Start.
	onStart func()
}

func (s *stockService) note(call string) {
	s.mu.Lock()
	s.calls = append(s.calls, call)
	s.mu.Unlock()
}

func (s *stockService) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	s.note("create")
	s.created = append(s.created, r)
	if s.onCreate != nil {
		if err := s.onCreate(r); err != nil {
			return nil, err
		}
	}
	if r.Checkpoint != "" {
		return &taskapi.CreateTaskResponse{}, nil
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(os.Getpid())}, nil
}

func (s *stockService) Start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	s.note("start " + r.ExecID)
	if s.onStart != nil {
		s.onStart()
	}
	return &taskapi.StartResponse{Pid: uint32(os.Getpid())}, nil
}

func (s *stockService) Kill(context.Context, *taskapi.KillRequest) (*emptypb.Empty, error) {
	s.note("kill")
	return &emptypb.Empty{}, nil
}

func (s *stockService) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	s.note("delete")
	return &taskapi.DeleteResponse{Pid: 1}, nil
}

func (s *stockService) Exec(context.Context, *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	s.note("exec")
	return &emptypb.Empty{}, nil
}

func (s *stockService) Update(context.Context, *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	s.note("update")
	return &emptypb.Empty{}, nil
}

func (s *stockService) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	s.note("checkpoint")
	return &emptypb.Empty{}, nil
}

func (s *stockService) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	s.note("state")
	return &taskapi.StateResponse{ID: "c1"}, nil
}

// topics notes the events that are published.
type topics struct {
	mu  sync.Mutex
	all []string
}

func (p *topics) Publish(_ context.Context, topic string, _ events.Event) error {
	p.mu.Lock()
	p.all = append(p.all, topic)
	p.mu.Unlock()
	return nil
}
func (p *topics) Close() error { return nil }

type bench struct {
	*service
	stock  *stockService
	agent  *fakeAgent
	topics *topics
	bundle string
	ctx    context.Context
}

const ordinary = `{"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"cgroupsPath":"/default/c1","namespaces":[{"type":"mount"}]}}`

func newBench(t *testing.T, mode string) *bench {
	t.Helper()
	a, path := startFakeAgent(t, mode)
	n := &nodeAgent{socket: path}
	dir := t.TempDir()
	bundle := filepath.Join(dir, "tasks", "c1")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	b := &bench{stock: &stockService{}, agent: a, topics: &topics{}, bundle: bundle, ctx: namespaces.WithNamespace(context.Background(), "ns")}
	b.service = &service{
		TTRPCTaskService: b.stock, agent: n, reports: newReporter(n), monitor: runtime.NewMonitor(runc.Monitor),
		publisher: b.topics, bundles: filepath.Join(dir, "private"), containers: map[string]*container{},
	}
	b.write(t, ordinary)
	return b
}

func (b *bench) write(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.bundle, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) request() *taskapi.CreateTaskRequest {
	return &taskapi.CreateTaskRequest{ID: "c1", Bundle: b.bundle, Rootfs: []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/l"}}}}
}

func (b *bench) private() string { return filepath.Join(b.bundles, "ns", "c1") }

func (b *bench) untouched(t *testing.T) {
	t.Helper()
	if len(b.stock.calls) > 0 {
		t.Errorf("the stock service was asked for %v", b.stock.calls)
	}
	if _, err := os.Lstat(b.private()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a private bundle stays: %v", err)
	}
	b.service.mu.Lock()
	defer b.service.mu.Unlock()
	if len(b.containers) > 0 {
		t.Errorf("the container is still known")
	}
}
