package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/policy"
)

// startBody is the body of "agent-start": what this agent says of itself and of
// the programs it relies on. Nothing vouches for it but what measured the agent
// before it ran.
type startBody struct {
	Build       string         `json:"build"`
	Vouched     string         `json:"vouched"`
	TPM         tpmBody        `json:"tpm"`
	Executables []executable   `json:"executables"`
	Config      fileBody       `json:"config"`
	Set         string         `json:"policy_set"`
	Policies    []policyRecord `json:"policies,omitempty"`
	Trust       []keyRecord    `json:"trust,omitempty"`
	// Channel is the SHA-256 of the public key (SubjectPublicKeyInfo) that this
	// run of the agent signs evidence with and shows its peers.
	Channel string `json:"channel"`
}

// runningBody is the body of "running", one for each namespace: what ran already
// when the agent started. It stands apart from agent-start, which every tenant
// may read.
type runningBody struct {
	Containers []string `json:"containers"`
}

type tpmBody struct {
	Device       string `json:"device"`
	Class        string `json:"class"`
	Manufacturer string `json:"manufacturer"`
	Firmware     string `json:"firmware"`
}

type executable struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

type fileBody struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

type policyRecord struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// policyBody is the body of "policy": a set of policies and trusted keys taking
// effect.
type policyBody struct {
	Set      string         `json:"set"`
	Policies []policyRecord `json:"policies,omitempty"`
	Trust    []keyRecord    `json:"trust,omitempty"`
}

func policyRecords(s *policy.Set) []policyRecord {
	var out []policyRecord
	for _, p := range s.Policies() {
		out = append(out, policyRecord{p.Name, p.Digest})
	}
	return out
}

// recordStart logs what this agent is.
func (a *Agent) recordStart(ctx context.Context) error {
	props, err := a.device.Properties(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(a.config.Bytes)
	set := a.policies.Load()
	body := startBody{
		Build: a.build, Vouched: "self-reported",
		TPM:    tpmBody{Device: a.device.Path(), Class: string(a.device.Class()), Manufacturer: props.Manufacturer, Firmware: props.Firmware},
		Config: fileBody{Path: a.config.Source, SHA256: hex.EncodeToString(sum[:])},
		Set:    set.Digest(), Policies: policyRecords(set), Trust: a.signed.Load().records(),
		Channel: a.channel.digest(),
	}
	if body.Executables, err = a.executables(); err != nil {
		return err
	}
	if _, err := a.log.Append(ctx, eventlog.Event{Type: "agent-start", Body: body}); err != nil {
		return err
	}
	return a.recordRunning(ctx)
}

// epochCheck is how often it is looked whether the log has begun anew under a
// running agent.
const epochCheck = 500 * time.Millisecond

// followEpochs records what this agent is in each epoch that begins while it
// runs: a TPM that restarts begins one, and a verifier sees no other.
func (a *Agent) followEpochs(ctx context.Context) {
	last := a.log.State().Epoch
	tick := time.NewTicker(epochCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s := a.log.State()
		if s.Epoch == last || s.Name == eventlog.Unavailable {
			continue
		}
		if err := a.recordStart(ctx); err != nil {
			slog.Warn("the agent is not on record in the log's new epoch yet", "err", err)
			continue
		}
		last = s.Epoch
	}
}

func (a *Agent) recordRunning(ctx context.Context) error {
	running := map[string][]string{}
	for _, c := range a.registry.list() {
		if c.State == "running" {
			running[c.Namespace] = append(running[c.Namespace], c.ID)
		}
	}
	for _, ns := range slices.Sorted(maps.Keys(running)) {
		if _, err := a.log.Append(ctx, eventlog.Event{Type: "running", Namespace: ns, Reserved: true, Body: runningBody{running[ns]}}); err != nil {
			return err
		}
	}
	return nil
}

// executables hashes Sealift's own programs and those it hands containers to.
func (a *Agent) executables() ([]executable, error) {
	var out []executable
	add := func(name, path string) error {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("executable %s: %w", path, err)
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return fmt.Errorf("executable %s: %w", path, err)
		}
		out = append(out, executable{name, path, hex.EncodeToString(h.Sum(nil))})
		return nil
	}
	// The agent's own file may have been replaced since it was started.
	if err := add("sealiftd", "/proc/self/exe"); err != nil {
		return nil, err
	}
	for _, p := range a.config.Node.Shims {
		if err := add("containerd-shim-sealift-v2", p); err != nil {
			return nil, err
		}
	}
	for _, p := range a.config.Node.CLI {
		if err := add("sealift", p); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"runc", "criu"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue // containers are refused by their runtime's absence, not by ours
		}
		if err := add(name, path); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// instanceID reads, or makes on the first start, the name of this installation.
func instanceID(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err == nil {
		id := strings.TrimSpace(string(b))
		if len(id) != 32 {
			return "", fmt.Errorf("host instance %s: not 32 hexadecimal digits\nhint: remove the file; a new instance begins", file)
		}
		return id, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("host instance: %w", err)
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", fmt.Errorf("host instance: %w", err)
	}
	id := hex.EncodeToString(raw[:])
	// A crash must not leave an empty name behind.
	if err := os.WriteFile(file+".new", []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("host instance: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return "", fmt.Errorf("host instance: %w", err)
	}
	return id, nil
}
