package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	stock "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/core/mount"
	cshim "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/runtime"
)

// lastReport bounds what the delete action waits for the agent.
const lastReport = 500 * time.Millisecond

// remove clears up after a shim that has gone, and tells containerd how its
// container ended. It works in the bundle directory. containerd runs it after
// every container; mostly there is nothing left to do.
func remove(ctx context.Context, v invocation, stdout io.Writer) error {
	for _, s := range []string{v.namespace, v.id} {
		if err := runtime.ValidID(s); err != nil {
			return err
		}
	}
	cwd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	tasks, err := filepath.EvalSymlinks(filepath.Dir(cwd))
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	bundle := filepath.Join(tasks, v.id)
	binary, err := stock.ReadRuntime(bundle)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("bundle: %w", err)
	}
	options, err := stock.ReadOptions(bundle)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	root := process.RuncRoot
	if options.GetRoot() != "" {
		root = options.GetRoot()
	}
	r := process.NewRunc(root, bundle, v.namespace, binary, options.GetSystemdCgroup())

	private, err := runtime.Private("", v.namespace, v.id)
	if err != nil {
		return err
	}
	var problems []error
	ours, err := private.Owned(bundle)
	if err != nil {
		problems = append(problems, err)
	}
	left, err := stateLeft(r.Root, v.id)
	if err != nil {
		problems = append(problems, err)
	}
	// Another containerd's container may have the same name, and lives on: the
	// OCI runtime's state is ours only if our private bundle or init's pid says so.
	left = left && (ours || sameInit(filepath.Join(r.Root, v.id), bundle))
	if left {
		// The shim died before its container: the container dies now.
		if err := r.Delete(ctx, v.id, &runc.DeleteOpts{Force: true}); err != nil {
			problems = append(problems, fmt.Errorf("runc delete --force %s: %w", v.id, err))
		}
	}
	exit := exitOf(bundle)
	if err := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0); err != nil {
		problems = append(problems, fmt.Errorf("rootfs: %w", err))
	}
	// A private bundle that is still there is one that Delete never came to.
	if ours {
		if err := private.Remove(); err != nil {
			problems = append(problems, err)
		}
		if err := reportDeath(ctx, v, exit); err != nil {
			problems = append(problems, err)
		}
	}
	if err := dropSocket(filepath.Join(bundle, "address")); err != nil {
		problems = append(problems, err)
	}
	b, err := proto.Marshal(&taskapi.DeleteResponse{
		Pid:        uint32(exit.Pid),
		ExitStatus: uint32(exit.Status),
		ExitedAt:   timestamppb.New(exit.Timestamp),
	})
	if err != nil {
		return fmt.Errorf("delete action's answer: %w", err)
	}
	if _, err := stdout.Write(b); err != nil {
		return fmt.Errorf("delete action's answer: %w", err)
	}
	// containerd logs what stderr holds of a delete that succeeded.
	if err := errors.Join(problems...); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
	}
	return nil
}

// stateLeft says whether the OCI runtime still has state of the container.
// Without it "delete --force" has nothing to find, and is not worth a process.
func stateLeft(root, id string) (bool, error) {
	if _, err := os.Lstat(filepath.Join(root, id)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		// Unknown counts as left.
		return true, fmt.Errorf("OCI runtime state: %w", err)
	}
	return true, nil
}

// sameInit says whether the OCI runtime's state is of the container whose init
// this bundle's pid file names. It covers the loss of the private bundle.
func sameInit(state, bundle string) bool {
	pid, err := runc.ReadPidFile(filepath.Join(bundle, process.InitPidFile))
	if err != nil {
		return false
	}
	init, err := runtime.InitPid(state)
	return err == nil && init == pid
}

// dropSocket removes the socket of a shim that died before it could, unless a
// shim serves it still: that of the container's group.
func dropSocket(addressFile string) error {
	address, err := cshim.ReadAddress(addressFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("shim address: %w", err)
	}
	if cshim.CanConnect(address) {
		return nil
	}
	return (&socket{address: address}).remove()
}

// exitOf is how the container ended: as its shim recorded, or else killed now.
func exitOf(bundle string) runc.Exit {
	now := time.Now()
	if e, err := stock.ReadExitStatus(bundle); err == nil {
		return e
	}
	// No record and no pid: the container never ran. containerd wants numbers
	// all the same.
	pid, err := runc.ReadPidFile(filepath.Join(bundle, process.InitPidFile))
	if err != nil {
		pid = 0
	}
	return runc.Exit{Pid: pid, Status: 128 + int(unix.SIGKILL), Timestamp: now}
}

// reportDeath records that a container died with its shim.
func reportDeath(ctx context.Context, v invocation, exit runc.Exit) error {
	ctx, cancel := context.WithTimeout(ctx, lastReport)
	defer cancel()
	a := &nodeAgent{}
	for _, kind := range []nodev1.ReportKind{nodev1.ReportKind_REPORT_KIND_EXIT, nodev1.ReportKind_REPORT_KIND_DELETED} {
		if _, err := a.Report(ctx, &nodev1.ReportRequest{
			Namespace: v.namespace, Id: v.id, Kind: kind, Pid: uint32(exit.Pid),
			ExitStatus: uint32(exit.Status), AtUnixNano: exit.Timestamp.UnixNano(),
		}); err != nil {
			return err
		}
	}
	return nil
}
