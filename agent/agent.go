// Package agent is sealiftd: it owns the TPM and the event log, answers the
// shims that ask whether a container may start, and keeps watch over what the
// host runs. This package only wires the parts together; what they do is in the
// packages beneath it and in measure and policy.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealift/sealift/agent/config"
	"github.com/sealift/sealift/agent/inventory"
	"github.com/sealift/sealift/agent/launch"
	"github.com/sealift/sealift/agent/peer"
	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/reference"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/policy"
)

const (
	// RunDir holds what a reboot must empty; StateDir what outlives it.
	RunDir   = "/run/sealift"
	StateDir = "/var/lib/sealift"
	// embeddedTPM is the socket of sealift-swtpm.service.
	embeddedTPM = "unix:" + RunDir + "/swtpm.sock"
	deviceTPM   = "/dev/tpmrm0"
)

// Agent is one running sealiftd.
type Agent struct {
	build   string
	started time.Time
	config  *config.Config

	device   tpm.Device
	channel  *channelKey
	prover   *prover
	peers    atomic.Pointer[peers]
	peersErr atomic.Pointer[error]
	log      *eventlog.Log
	daemons  []*inventory.Daemon
	examiner *launch.Examiner
	registry *registry
	signed   atomic.Pointer[signed]
	images   *images
	policies atomic.Pointer[policy.Set]
	recount  chan struct{}
	gather   *gather
	// gone is since when containerd has had no task for a container; only the
	// census uses it.
	gone map[string]time.Time

	enroller  enroller
	mu        sync.Mutex
	bypassing []bypass
	refusals  peerRefusals
}

// Run serves until ctx ends. It calls ready once containers can start.
func Run(ctx context.Context, cfg *config.Config, build string, ready func()) error {
	a := &Agent{build: build, started: time.Now(), config: cfg, recount: make(chan struct{}, 1), gather: newGather()}
	if err := a.open(ctx); err != nil {
		return errors.Join(err, a.close())
	}
	err := a.run(ctx, ready)
	return errors.Join(err, a.close())
}

// open brings up everything that a first start needs, in the order of need.
func (a *Agent) open(ctx context.Context) (err error) {
	for _, dir := range []string{RunDir, StateDir} {
		if err := privateDir(dir); err != nil {
			return err
		}
	}
	set, err := policy.LoadDir(a.config.Policy.Directory)
	if err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	a.policies.Store(set)
	if a.registry, err = openRegistry(filepath.Join(RunDir, "containers")); err != nil {
		return err
	}
	for _, addr := range a.config.Containerd.Addresses {
		d, err := inventory.Open(addr, time.Duration(a.config.Containerd.Timeout))
		if err != nil {
			return err
		}
		a.daemons = append(a.daemons, d)
	}
	if err := a.openExaminer(); err != nil {
		return err
	}
	if a.device, err = openTPM(ctx, a.config); err != nil {
		return err
	}
	if a.channel, err = newChannelKey(); err != nil {
		return err
	}
	if err := a.openLog(ctx); err != nil {
		return err
	}
	a.prover = &prover{
		device: a.device, log: a.log, pcr: a.config.TPM.PCR, channel: a.channel,
		directory: a.config.Attest.Directory, boot: a.config.Attest.BootLog, ima: a.config.Attest.IMALog,
	}
	return a.recordStart(ctx)
}

func (a *Agent) openExaminer() error {
	refs, err := launch.OpenReferences(a.config.Measure.Cache, filepath.Join(RunDir, "references"))
	if err != nil {
		return err
	}
	watch, err := launch.OpenWatch(filepath.Join(StateDir, "containers"))
	if err != nil {
		return err
	}
	signed, err := openSigned(a.config)
	if err != nil {
		return err
	}
	a.signed.Store(signed)
	a.examiner = &launch.Examiner{
		Daemons: map[string]*inventory.Daemon{}, References: refs, Watch: watch,
		Layers:   launch.NewLayers(a.config.Measure.Workers),
		Policies: a.policies.Load,
		Signed:   func() *reference.Store { return a.signed.Load().Store },
	}
	for _, d := range a.daemons {
		a.examiner.Daemons[d.Address()] = d
	}
	a.images = newImages(a)
	return nil
}

// tpmPatience is how long a TPM may take to appear.
const tpmPatience = 5 * time.Second

// openTPM opens the configured TPM, or the host's, or the embedded software one.
func openTPM(ctx context.Context, cfg *config.Config) (tpm.Device, error) {
	path := cfg.TPM.Device
	if path == "" {
		path = embeddedTPM
		if _, err := os.Stat(deviceTPM); err == nil {
			path = deviceTPM
		}
	}
	d, err := tpm.OpenWith(ctx, path, tpm.Options{Timeout: time.Duration(cfg.TPM.Timeout)})
	// The software TPM's unit counts as started before its socket is there.
	var away *tpm.UnreachableError
	for until := time.Now().Add(tpmPatience); errors.As(err, &away) && time.Now().Before(until) && ctx.Err() == nil; {
		time.Sleep(50 * time.Millisecond)
		d, err = tpm.OpenWith(ctx, path, tpm.Options{Timeout: time.Duration(cfg.TPM.Timeout)})
	}
	if err != nil {
		return nil, err
	}
	if d.Class() == tpm.Software {
		slog.Warn("the TPM is software: its identity and its history can be copied", "device", path)
	}
	return d, nil
}

func (a *Agent) openLog(ctx context.Context) error {
	instance, err := instanceID(filepath.Join(StateDir, "instance"))
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("boot id: %w", err)
	}
	// An epoch begins that has no record of their start: what runs goes on, and
	// is unproven from here on.
	unproven := func(context.Context) ([]eventlog.Container, error) {
		var out []eventlog.Container
		for _, c := range a.registry.list() {
			if c.State != "running" && c.State != "unproven" {
				continue
			}
			if _, err := a.registry.update(c.Namespace, c.ID, func(c *container) { c.State = "unproven" }); err != nil {
				return nil, err
			}
			out = append(out, eventlog.Container{Namespace: c.Namespace, ID: c.ID})
		}
		return out, nil
	}
	a.log, err = eventlog.Open(ctx, eventlog.Config{
		Dir: a.config.Log.Directory, Device: a.device, PCR: a.config.TPM.PCR,
		BootID: strings.TrimSpace(string(boot)), Instance: instance,
		Timeout:      time.Duration(a.config.TPM.Timeout),
		SegmentBytes: a.config.Log.SegmentBytes, MaxBytes: a.config.Log.MaxBytes, Reserve: a.config.Log.Reserve,
		Quota:   eventlog.Quota{BytesPerMinute: a.config.Log.Quota, Burst: 4 * a.config.Log.Quota, Share: 0.5},
		SyncLag: time.Duration(a.config.Log.SyncLag),
		Running: unproven,
	})
	if err != nil {
		return err
	}
	if s := a.log.State(); s.Name != eventlog.Trusted {
		slog.Warn("event log", "state", s.Name, "cause", s.Cause, "reason", s.Reason, "hint", s.Hint())
	}
	return nil
}

// run serves and does what goes on beside.
func (a *Agent) run(ctx context.Context, ready func()) error {
	checker, err := peer.NewChecker(map[peer.Role][]string{peer.Shim: a.config.Node.Shims, peer.CLI: a.config.Node.CLI},
		filepath.Join(RunDir, "executables"), a.registry)
	if err != nil {
		return err
	}
	l, err := listen(node.Socket)
	if err != nil {
		return err
	}
	srv, err := newServer(l, checker, map[peer.Role]nodev1.NodeService{peer.Shim: &shimService{a: a}, peer.CLI: &cliService{a: a}}, a.denied)
	if err != nil {
		l.Close()
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.serve(ctx) })
	g.Go(func() error { a.census(ctx); return nil })
	g.Go(func() error { return a.servePeers(ctx) })
	g.Go(func() error { a.followEpochs(ctx); return nil })
	g.Go(func() error { a.refusals.report(ctx, a.log); return nil })
	g.Go(func() error { a.reloadOnSignal(ctx); return nil })
	for _, d := range a.daemons {
		g.Go(func() error { a.follow(ctx, d); return nil })
	}
	ready()
	slog.Info("ready", "socket", node.Socket, "tpm", a.device.Path(), "class", a.device.Class(), "pcr", a.config.TPM.PCR, "log", a.log.State().Name)
	err = g.Wait()
	// The last word has its own time: the caller's is over.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, aerr := a.log.Append(wctx, eventlog.Event{Type: "agent-stop"}); aerr != nil {
		slog.Warn("stop not recorded", "err", aerr)
	}
	return err
}

func (a *Agent) close() error {
	var errs []error
	if a.log != nil {
		errs = append(errs, a.log.Close())
	}
	if a.device != nil {
		errs = append(errs, a.device.Close())
	}
	for _, d := range a.daemons {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// reloadOnSignal reads policies and trusted keys again on SIGHUP.
func (a *Agent) reloadOnSignal(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			if err := a.reload(ctx); err != nil {
				slog.Error("the policies that were in force stay in force", "err", err)
			} else {
				slog.Info("policies read", "set", a.policies.Load().Digest())
			}
		case <-ctx.Done():
			return
		}
	}
}

// reload reads the policies and the trusted keys again; on an error the old ones stay in force.
func (a *Agent) reload(ctx context.Context) error {
	set, err := policy.LoadDir(a.config.Policy.Directory)
	if err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	signed, err := openSigned(a.config)
	if err != nil {
		return err
	}
	keys := signed.records()
	if set.Digest() == a.policies.Load().Digest() && slices.Equal(keys, a.signed.Load().records()) {
		return nil
	}
	if _, err := a.log.Append(ctx, eventlog.Event{Type: "policy", Body: policyBody{Set: set.Digest(), Policies: policyRecords(set), Trust: keys}}); err != nil {
		return err
	}
	a.policies.Store(set)
	a.signed.Store(signed)
	return nil
}

// privateDir makes a directory that only root can enter.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}
