package shim

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

func TestRefusedCreateLeavesNothing(t *testing.T) {
	b := newBench(t, "refuse")
	_, err := b.Create(b.ctx, b.request())
	if native := errgrpc.ToNative(err); !errdefs.IsPermissionDenied(native) {
		t.Errorf("%v, want permission denied", err)
	}
	for _, want := range []string{"ns/c1", "bin/busybox", "wanted 11aa", "found 22bb", "hint: pull"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	b.untouched(t)
	b.agent.set("commit")
	if _, err := b.Create(b.ctx, b.request()); err != nil {
		t.Errorf("create after a refusal: %v", err)
	}
}

func TestCreateWithoutAgent(t *testing.T) {
	b := newBench(t, "commit")
	b.service.agent = &nodeAgent{socket: filepath.Join(t.TempDir(), "none")}
	_, err := b.Create(b.ctx, b.request())
	if native := errgrpc.ToNative(err); !errdefs.IsUnavailable(native) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("%v, want unavailable with a hint", err)
	}
	b.untouched(t)
}

// What is measured is what runc reads, whatever becomes of config.json.
func TestCreateRunsTheMeasuredBytes(t *testing.T) {
	for _, mode := range []string{"commit", "audit"} {
		b := newBench(t, mode)
		b.stock.onCreate = func(r *taskapi.CreateTaskRequest) error {
			b.write(t, `{"root":{"path":"/evil"}}`)
			got, err := os.ReadFile(filepath.Join(b.private(), "config.json"))
			if err != nil {
				return err
			}
			if launched := b.agent.launches[0].GetSpec(); string(got) != string(launched) {
				t.Errorf("%s: runc reads %s, measured was %s", mode, got, launched)
			}
			return nil
		}
		if _, err := b.Create(b.ctx, b.request()); err != nil {
			t.Fatal(err)
		}
		q := b.agent.launches[0]
		var spec struct{ Root struct{ Path string } }
		if err := json.Unmarshal(q.GetSpec(), &spec); err != nil || spec.Root.Path != filepath.Join(b.bundle, "rootfs") {
			t.Errorf("%s: root.path %q, %v", mode, spec.Root.Path, err)
		}
		if !slices.Equal(q.GetRootfs()[0].GetOptions(), b.stock.created[0].Rootfs[0].GetOptions()) {
			t.Errorf("%s: measured mount %v, mounted %v", mode, q.GetRootfs(), b.stock.created[0].Rootfs)
		}
	}
}

func TestFailedCreateIsReportedAndCleared(t *testing.T) {
	b := newBench(t, "commit")
	b.stock.onCreate = func(*taskapi.CreateTaskRequest) error { return errgrpc.ToGRPCf(errdefs.ErrUnknown, "runc said no") }
	if _, err := b.Create(b.ctx, b.request()); err == nil || !strings.Contains(err.Error(), "runc said no") {
		t.Errorf("create: %v", err)
	}
	b.stock.calls = nil
	b.untouched(t)
	eventually(t, func() bool { return slices.Contains(b.agent.kinds(), nodev1.ReportKind_REPORT_KIND_CREATE_FAILED) })
}

func TestCreateTwice(t *testing.T) {
	b := newBench(t, "commit")
	if _, err := b.Create(b.ctx, b.request()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(b.ctx, b.request()); !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		t.Errorf("second create: %v", err)
	}
	if n := len(b.agent.launches); n != 1 {
		t.Errorf("%d launches", n)
	}
	if _, err := os.Stat(filepath.Join(b.private(), "config.json")); err != nil {
		t.Errorf("the first one's bundle: %v", err)
	}
}

func TestHostileCreateChangesNothing(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *bench, *taskapi.CreateTaskRequest){
		"id with a traversal":  func(_ *testing.T, _ *bench, r *taskapi.CreateTaskRequest) { r.ID = "../c1" },
		"empty id":             func(_ *testing.T, _ *bench, r *taskapi.CreateTaskRequest) { r.ID = "" },
		"bundle of another id": func(_ *testing.T, b *bench, r *taskapi.CreateTaskRequest) { r.Bundle = filepath.Dir(b.bundle) },
		"relative bundle":      func(_ *testing.T, _ *bench, r *taskapi.CreateTaskRequest) { r.Bundle = "c1" },
		"config elsewhere": func(t *testing.T, b *bench, _ *taskapi.CreateTaskRequest) {
			path := filepath.Join(b.bundle, "config.json")
			if err := errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)); err != nil {
				t.Fatal(err)
			}
		},
		"rootfs elsewhere": func(t *testing.T, b *bench, _ *taskapi.CreateTaskRequest) {
			if err := os.Symlink("/", filepath.Join(b.bundle, "rootfs")); err != nil {
				t.Fatal(err)
			}
		},
		"root not the mounted one": func(t *testing.T, b *bench, _ *taskapi.CreateTaskRequest) {
			b.write(t, `{"root":{"path":"/etc"}}`)
		},
		"duplicate keys": func(t *testing.T, b *bench, _ *taskapi.CreateTaskRequest) {
			b.write(t, `{"root":{"path":"rootfs"},"mounts":[],"Mounts":[]}`)
		},
		"foreign options": func(_ *testing.T, _ *bench, r *taskapi.CreateTaskRequest) {
			r.Options = &anypb.Any{TypeUrl: "some.Thing"}
		},
	} {
		b := newBench(t, "commit")
		r := b.request()
		spoil(t, b, r)
		if _, err := b.Create(b.ctx, r); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if n := len(b.agent.launches); n > 0 {
			t.Errorf("%s: %d launches", name, n)
		}
		b.untouched(t)
	}
	b := newBench(t, "commit")
	if _, err := b.Create(namespaces.WithNamespace(context.Background(), "../ns"), b.request()); err == nil {
		t.Error("a namespace with a traversal was accepted")
	}
}

// The stock service panics on options of any other type than runc's.
func TestCreateTranslatesOptions(t *testing.T) {
	generic, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte("NoPivotRoot = true")})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options *anypb.Any
		config  string
		want    func(*runcoptions.Options) bool
	}{
		"nil":     {nil, ordinary, func(o *runcoptions.Options) bool { return !o.SystemdCgroup }},
		"generic": {generic, ordinary, func(o *runcoptions.Options) bool { return o.NoPivotRoot && !o.SystemdCgroup }},
		"systemd": {nil, strings.Replace(ordinary, "/default/c1", "system.slice:nerdctl:c1", 1), func(o *runcoptions.Options) bool { return o.SystemdCgroup }},
	} {
		b := newBench(t, "commit")
		b.write(t, c.config)
		b.service.systemd = true
		r := b.request()
		r.Options = c.options
		if _, err := b.Create(b.ctx, r); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var o runcoptions.Options
		if err := typeurl.UnmarshalTo(b.stock.created[0].Options, &o); err != nil || !c.want(&o) {
			t.Errorf("%s: %v, %v", name, &o, err)
		}
		if got := b.agent.launches[0].GetSystemdCgroup(); got != o.SystemdCgroup {
			t.Errorf("%s: agent was told systemd cgroup %v", name, got)
		}
	}
}

func TestNothingHappensUnrecorded(t *testing.T) {
	spec := &anypb.Any{Value: []byte(`{"args":["id"]}`)}
	for name, c := range map[string]struct {
		kind nodev1.ReportKind
		do   func(*bench) error
		then []string
	}{
		"start": {nodev1.ReportKind_REPORT_KIND_STARTED, func(b *bench) error { _, err := b.Start(b.ctx, &taskapi.StartRequest{ID: "c1"}); return err }, []string{"kill"}},
		"exec": {nodev1.ReportKind_REPORT_KIND_EXEC, func(b *bench) error {
			_, err := b.Exec(b.ctx, &taskapi.ExecProcessRequest{ID: "c1", ExecID: "e", Spec: spec})
			return err
		}, nil},
		"update": {nodev1.ReportKind_REPORT_KIND_UPDATE, func(b *bench) error {
			_, err := b.Update(b.ctx, &taskapi.UpdateTaskRequest{ID: "c1", Resources: spec})
			return err
		}, nil},
		"checkpoint": {nodev1.ReportKind_REPORT_KIND_CHECKPOINT, func(b *bench) error {
			_, err := b.Checkpoint(b.ctx, &taskapi.CheckpointTaskRequest{ID: "c1", Path: "/p"})
			return err
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "commit")
			if err := c.do(b); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
				t.Errorf("before create: %v", err)
			}
			if _, err := b.Create(b.ctx, b.request()); err != nil {
				t.Fatal(err)
			}
			b.stock.calls = nil
			b.agent.set("refuse-reports")
			if err := c.do(b); err == nil || !strings.Contains(err.Error(), "disk full") {
				t.Errorf("unrecorded: %v", err)
			}
			if !slices.Equal(b.stock.calls, c.then) {
				t.Errorf("unrecorded, yet the stock service was asked for %v", b.stock.calls)
			}
			b.stock.calls = nil
			b.agent.set("commit")
			if err := c.do(b); err != nil {
				t.Errorf("recorded: %v", err)
			}
			if len(b.stock.calls) != 1 || !slices.Contains(b.agent.kinds(), c.kind) {
				t.Errorf("recorded %v, called %v", b.agent.kinds(), b.stock.calls)
			}
			if name == "exec" && string(b.agent.reports[0].GetDetail()) != string(spec.Value) {
				t.Errorf("detail %s", b.agent.reports[0].GetDetail())
			}
			if name == "checkpoint" && !slices.Equal(b.topics.all, []string{"/tasks/checkpointed"}) {
				t.Errorf("events %v", b.topics.all)
			}
		})
	}
}

// A restored container has a process only once it runs: the agent must hear of it
// then, or the container does not stay.
func TestRestoredStartIsRecordedWithItsPid(t *testing.T) {
	b := newBench(t, "commit")
	r := b.request()
	r.Checkpoint = "/checkpoint"
	if _, err := b.Create(b.ctx, r); err != nil {
		t.Fatal(err)
	}
	b.stock.calls, b.stock.onStart = nil, func() { b.agent.set("refuse-reports") }
	if _, err := b.Start(b.ctx, &taskapi.StartRequest{ID: "c1"}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("unrecorded: %v", err)
	}
	if !slices.Equal(b.stock.calls, []string{"start ", "kill"}) {
		t.Errorf("the stock service was asked for %v", b.stock.calls)
	}
	var pids []uint32
	for _, q := range b.agent.reports {
		if q.GetKind() == nodev1.ReportKind_REPORT_KIND_STARTED {
			pids = append(pids, q.GetPid())
		}
	}
	if !slices.Equal(pids, []uint32{0, uint32(os.Getpid())}) {
		t.Errorf("reported as started with the pids %v", pids)
	}
}

// containerd before 2.0 leaves a checkpoint's path in the options, for runtimes
// whose name it does not know.
func TestCheckpointPathInOptions(t *testing.T) {
	b := newBench(t, "commit")
	dir := t.TempDir()
	create := func(path string) error {
		var err error
		r := b.request()
		if r.Options, err = typeurl.MarshalAnyToProto(&runcoptions.Options{CriuImagePath: path}); err != nil {
			t.Fatal(err)
		}
		_, err = b.Create(b.ctx, r)
		return err
	}
	for _, bad := range []string{"relative", dir + "/none"} {
		if err := create(bad); !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) || len(b.stock.calls) > 0 {
			t.Errorf("%s: %v, called %v", bad, err, b.stock.calls)
		}
	}
	if err := create(dir); err != nil {
		t.Fatal(err)
	}
	if got, measured := b.stock.created[0].Checkpoint, b.agent.launches[0].GetCheckpoint(); got != dir || measured != dir {
		t.Errorf("restored from %q, recorded %q, want %q", got, measured, dir)
	}

	options, err := typeurl.MarshalAnyToProto(&runcoptions.CheckpointOptions{ImagePath: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pages"), []byte("memory"), 0o600); err != nil {
		t.Fatal(err)
	}
	daemons := t.TempDir()
	if _, err := b.Checkpoint(b.ctx, &taskapi.CheckpointTaskRequest{ID: "c1", Path: daemons, Options: options}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(daemons, "pages")); err != nil || string(got) != "memory" {
		t.Errorf("containerd's own directory has %q, %v", got, err)
	}
}

func TestDeleteClearsUp(t *testing.T) {
	b := newBench(t, "commit")
	if _, err := b.Create(b.ctx, b.request()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Delete(b.ctx, &taskapi.DeleteRequest{ID: "c1", ExecID: "e"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.private()); err != nil {
		t.Errorf("deleting an exec took the bundle: %v", err)
	}
	if _, err := b.Delete(b.ctx, &taskapi.DeleteRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	b.stock.calls = nil
	b.untouched(t)
	eventually(t, func() bool { return slices.Contains(b.agent.kinds(), nodev1.ReportKind_REPORT_KIND_DELETED) })
}

// Every method of the task API must answer under both names.
func TestBothTaskAPIs(t *testing.T) {
	b := newBench(t, "commit")
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.RegisterTTRPC(srv); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "task.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(context.Background(), l)
	defer srv.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	for _, api := range []string{"containerd.task.v2.Task", "containerd.task.v3.Task"} {
		var r taskapi.StateResponse
		if err := client.Call(b.ctx, api, "State", &taskapi.StateRequest{ID: "c1"}, &r); err != nil || r.ID != "c1" {
			t.Errorf("%s: %v, %v", api, &r, err)
		}
	}
	// Methods that the stand-in lacks panic; it is enough that v2 knows the names.
	methods := reflect.TypeFor[taskapi.TTRPCTaskService]()
	recorded := &ttrpc.ServiceDesc{Methods: methodsV2(b.service)}
	for i := range methods.NumMethod() {
		if name := methods.Method(i).Name; recorded.Methods[name] == nil {
			t.Errorf("task API v2 lacks %s", name)
		}
	}
	if len(recorded.Methods) != methods.NumMethod() {
		t.Errorf("task API v2 has %d methods, v3 %d", len(recorded.Methods), methods.NumMethod())
	}
}
