package shim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// asShim makes this test binary the shim; the shim it starts inherits it.
const asShim = "SEALIFT_TEST_AS_SHIM"

// shimHost is where shims are started as containerd starts them.
type shimHost struct {
	t       *testing.T
	tasks   string
	sockets string
}

func newShimHost(t *testing.T) *shimHost {
	t.Helper()
	// A socket's path may have 107 bytes, 65 of which are its name here.
	sockets, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Remove, not RemoveAll: a socket that was left behind is a failure.
		if err := os.Remove(sockets); err != nil {
			t.Error(err)
		}
	})
	return &shimHost{t: t, tasks: filepath.Join(t.TempDir(), "tasks"), sockets: sockets}
}

// bundle makes a bundle with the fifo that containerd reads a shim's log from.
func (h *shimHost) bundle(id, group string) string {
	h.t.Helper()
	dir := filepath.Join(h.tasks, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	config := `{"annotations":{"io.kubernetes.cri.sandbox-id":"` + group + `"}}`
	if group == "" {
		config = `{}`
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		h.t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	if err := unix.Mkfifo(log, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		h.t.Fatal(err)
	}
	f, err := os.OpenFile(log, os.O_RDWR, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	go io.Copy(io.Discard, f)
	h.t.Cleanup(func() { f.Close() })
	return dir
}

// run runs one action and returns its stdout; stderr must stay empty.
func (h *shimHost) run(dir, id, action string, stdin []byte) []byte {
	h.t.Helper()
	c := exec.Command(os.Args[0], "-namespace", "ns", "-address", filepath.Join(h.tasks, "c.sock"), "-publish-binary", "containerd", "-id", id, action)
	c.Dir, c.Stdin = dir, bytes.NewReader(stdin)
	c.Env = append(os.Environ(), asShim+"=1", "GOMAXPROCS=2", "TTRPC_ADDRESS=")
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		h.t.Fatalf("%s %s: %v: %s", action, id, err, &stderr)
	}
	if stderr.Len() > 0 {
		h.t.Errorf("%s %s wrote to stderr: %s", action, id, &stderr)
	}
	return stdout.Bytes()
}

func (h *shimHost) params(id string) []byte {
	h.t.Helper()
	b, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: id, Namespace: "ns", SocketDir: &h.sockets})
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

// start starts a shim in the new dialect and returns its address.
func (h *shimHost) start(id, group string) string {
	h.t.Helper()
	var r bootapi.BootstrapResult
	if err := proto.Unmarshal(h.run(h.bundle(id, group), id, "start", h.params(id)), &r); err != nil {
		h.t.Fatal(err)
	}
	if r.GetVersion() != 3 || r.GetProtocol() != "ttrpc" {
		h.t.Errorf("answer %v", &r)
	}
	return r.GetAddress()
}

// pid asks the shim for its pid under one name of the task API.
func (h *shimHost) pid(address, api string) uint32 {
	h.t.Helper()
	c := dial(h.t, address)
	defer c.Close()
	var r taskapi.ConnectResponse
	if err := c.Call(namespaces.WithNamespace(h.t.Context(), "ns"), api, "Connect", &taskapi.ConnectRequest{ID: "x"}, &r); err != nil {
		h.t.Fatalf("connect: %v", err)
	}
	return r.ShimPid
}

func dial(t *testing.T, address string) *ttrpc.Client {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	return ttrpc.NewClient(conn)
}

// stop shuts the shim down and waits until it has gone, socket and all.
func (h *shimHost) stop(address string) {
	h.t.Helper()
	pid := h.pid(address, "containerd.task.v3.Task")
	c := dial(h.t, address)
	defer c.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "ns"), time.Minute)
	defer cancel()
	if err := c.Call(ctx, "containerd.task.v3.Task", "Shutdown", &taskapi.ShutdownRequest{ID: "x"}, &emptypb.Empty{}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		h.t.Errorf("shutdown: %v", err)
	}
	eventually(h.t, func() bool { return !alive(int(pid)) })
	if _, err := os.Lstat(strings.TrimPrefix(address, "unix://")); !errors.Is(err, os.ErrNotExist) {
		h.t.Errorf("the socket stays: %v", err)
	}
}

func TestStartServesBothTaskAPIs(t *testing.T) {
	h := newShimHost(t)
	address := h.start("c1", "")
	if got, err := os.ReadFile(filepath.Join(h.tasks, "c1", "address")); err != nil || string(got) != address {
		t.Errorf("address file %q, %v; address %s", got, err, address)
	}
	if v2, v3 := h.pid(address, "containerd.task.v2.Task"), h.pid(address, "containerd.task.v3.Task"); v2 == 0 || v2 != v3 {
		t.Errorf("task API v2 is served by %d, v3 by %d", v2, v3)
	}
	out := h.run(h.bundle("c2", ""), "c2", "start", h.params("c2"))
	var r bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	if r.GetAddress() == address {
		t.Error("two containers without a group share a shim")
	}
	h.stop(r.GetAddress())
	h.stop(address)
}

func TestPodSharesOneShim(t *testing.T) {
	h := newShimHost(t)
	first := h.start("pause", "pause")
	pid := h.pid(first, "containerd.task.v3.Task")
	second := h.start("app", "pause")
	if second != first || h.pid(second, "containerd.task.v3.Task") != pid {
		t.Errorf("addresses %s and %s", first, second)
	}
	// Its first container's bundle goes before the shim does.
	if err := os.RemoveAll(filepath.Join(h.tasks, "pause")); err != nil {
		t.Fatal(err)
	}
	h.stop(first)
	// What a killed shim leaves does not keep the next one from starting.
	dead := h.start("pause", "pause")
	killed := int(h.pid(dead, "containerd.task.v3.Task"))
	if err := unix.Kill(killed, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return !alive(killed) })
	again := h.start("app", "pause")
	if int(h.pid(again, "containerd.task.v3.Task")) == killed {
		t.Error("a dead shim answers")
	}
	h.stop(again)
}

func TestDeleteOfWhatNeverRan(t *testing.T) {
	h := newShimHost(t)
	dir := h.bundle("c1", "")
	var r taskapi.DeleteResponse
	if err := proto.Unmarshal(h.run(dir, "c1", "delete", nil), &r); err != nil {
		t.Fatal(err)
	}
	if r.ExitStatus != 128+uint32(unix.SIGKILL) || r.Pid != 0 {
		t.Errorf("exit %v", &r)
	}
}

func TestStartRefusesHostileNames(t *testing.T) {
	for _, args := range [][]string{
		{"-namespace", "../x", "-id", "c1", "start"},
		{"-namespace", "ns", "-id", "../c1", "start"},
		{"-namespace", "ns", "-id", "../c1", "delete"},
		{"-id", "c1", "start"},
		{"-namespace", "ns", "-id", "c1", "destroy"},
		{"-no-such-flag"},
	} {
		var stdout, stderr bytes.Buffer
		if status := Main(append([]string{"shim"}, args...), strings.NewReader(""), &stdout, &stderr); status == 0 || stdout.Len() > 0 {
			t.Errorf("%v: status %d, stdout %q", args, status, &stdout)
		}
	}
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// What the OCI runtime has under a name is ours if it has the init of our pid
// file; another containerd's container of the same name is not.
func TestSameInit(t *testing.T) {
	state, bundle := t.TempDir(), t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if sameInit(state, bundle) {
		t.Error("nothing is the same as nothing")
	}
	write(filepath.Join(bundle, "init.pid"), "42")
	write(filepath.Join(state, "state.json"), `{"id":"c1","init_process_pid":42}`)
	if !sameInit(state, bundle) {
		t.Error("our own container is not recognised")
	}
	write(filepath.Join(state, "state.json"), `{"id":"c1","init_process_pid":43}`)
	if sameInit(state, bundle) {
		t.Error("another container is taken for ours")
	}
}
