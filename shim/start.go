package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	goruntime "runtime"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/schedcore"
	cshim "github.com/containerd/containerd/v2/pkg/shim"

	"github.com/sealift/sealift/runtime"
	"github.com/sealift/sealift/shim/internal/bootstrap"
)

// maxStdin bounds what start reads, as containerd's own shim does.
const maxStdin = 10 << 20

// groupAnnotations put several containers into one shim, in this order of
// precedence: containerd's own label, and a pod of Kubernetes.
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// start starts the shim proper, or finds the one of the container's group, and
// prints its address. It works in the bundle directory. On success it must not
// write to stderr: containerd reads both as one.
func start(ctx context.Context, v invocation, stdin io.Reader, stdout io.Writer) error {
	for _, s := range []string{v.namespace, v.id} {
		if err := runtime.ValidID(s); err != nil {
			return err
		}
	}
	input, err := io.ReadAll(io.LimitReader(stdin, maxStdin))
	if err != nil {
		return fmt.Errorf("start action's stdin: %w", err)
	}
	req, err := bootstrap.Decode(input, v.id, v.namespace)
	if err != nil {
		return err
	}
	if req.GRPCAddress != "" {
		v.address = req.GRPCAddress
	}
	v.debug = v.debug || req.Debug
	options, err := runtime.DecodeOptions(req.Options)
	if err != nil {
		return err
	}
	group, err := groupOf(v.id)
	if err != nil {
		return err
	}
	sock, err := listen(ctx, req.SocketDir, v.address, group)
	if err != nil {
		return err
	}
	if sock.listener != nil {
		if err := spawn(v, options.GetShimCgroup(), sock); err != nil {
			return errors.Join(err, sock.remove())
		}
		// The shim removes the socket that this file names when it ends. Its
		// address does not follow from the container's id where containers share
		// a shim.
		if err := os.WriteFile("address", []byte(sock.address), 0o600); err != nil {
			return fmt.Errorf("shim address: %w", err)
		}
	}
	answer, err := bootstrap.Encode(req.Dialect, sock.address)
	if err != nil {
		return err
	}
	if _, err := stdout.Write(answer); err != nil {
		return fmt.Errorf("start action's answer: %w", err)
	}
	return nil
}

// groupOf says which containers share a shim with id: those of the same group.
func groupOf(id string) (string, error) {
	config, err := runtime.ReadConfig(".")
	if err != nil {
		return "", err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(config, &spec); err != nil {
		return "", fmt.Errorf("config.json: %w", err)
	}
	for _, a := range groupAnnotations {
		if group, ok := spec.Annotations[a]; ok {
			return group, nil
		}
	}
	return id, nil
}

// spawn starts this program again as the shim proper, with the socket as its
// descriptor 3. It does so without os/exec, whose bookkeeping start has no use
// for.
func spawn(v invocation, cgroup string, sock *socket) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("shim executable: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("shim: %w", err)
	}
	defer null.Close()
	conn, err := sock.listener.File()
	if err != nil {
		return fmt.Errorf("shim socket %s: %w", sock.address, err)
	}
	defer conn.Close()
	args := []string{self, "-namespace", v.namespace, "-id", v.id, "-address", v.address}
	if v.debug {
		args = append(args, "-debug")
	}
	// The scheduling core is the thread's that forks.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	if os.Getenv("SCHED_CORE") != "" {
		if err := schedcore.Create(schedcore.ProcessGroup); err != nil {
			return fmt.Errorf("shim scheduling core: %w", err)
		}
	}
	p, err := os.StartProcess(self, args, &os.ProcAttr{
		Env:   daemonEnv(os.Environ()),
		Files: []*os.File{null, null, null, conn},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("shim: %w", err)
	}
	if err := settle(p.Pid, cgroup); err != nil {
		return errors.Join(err, p.Kill())
	}
	return p.Release()
}

// settle puts the new shim where it belongs: its cgroup, and an OOM score that
// lets the kernel take it before containerd.
func settle(pid int, cgroup string) error {
	if cgroup != "" {
		if err := runtime.JoinCgroup(cgroup, pid); err != nil {
			return fmt.Errorf("shim: %w", err)
		}
	}
	if err := cshim.AdjustOOMScore(pid); err != nil {
		return fmt.Errorf("shim: %w", err)
	}
	return nil
}

// daemonEnv is the environment of the shim proper. containerd sets GOMAXPROCS
// for the start action; the stock shim serves with four.
func daemonEnv(env []string) []string {
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, "GOMAXPROCS=") {
			out = append(out, e)
		}
	}
	return append(out, "GOMAXPROCS=4")
}
