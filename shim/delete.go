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
	bundle := filepath.Join(filepath.Dir(cwd), v.id)
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
	// What another containerd's container of this name has is not ours to clear.
	foreign, err := private.Foreign(bundle)
	if err != nil {
		problems = append(problems, err)
	}
	left, unfinished := false, false
	if !foreign {
		unfinished = private.Exists()
		if left, err = stateLeft(r.Root, v.id); err != nil {
			problems = append(problems, err)
		}
	}
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
	if !foreign {
		if err := private.Remove(); err != nil {
			problems = append(problems, err)
		}
	}
	if left || unfinished {
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
