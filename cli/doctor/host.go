package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/version"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/reference"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/policy"
)

func runc(ctx context.Context, _ Paths) []Result {
	path, err := exec.LookPath("runc")
	if err != nil {
		return one("runc", Missing, "not in PATH", "apt-get install runc")
	}
	return one("runc", Good, path+", "+strings.TrimPrefix(firstLine(output(ctx, path, "--version")), "runc version "), "")
}

func shim(ctx context.Context, _ Paths) []Result {
	const name = "containerd-shim-sealift-v2"
	path, err := exec.LookPath(name)
	if err != nil {
		return one("shim", Missing, name+" is not in PATH", "make install; containerd looks for it in its own PATH")
	}
	return one("shim", Good, path, "")
}

func agent(ctx context.Context, p Paths) []Result {
	c, err := node.Dial(ctx, p.Socket, "cli", version.Version)
	var away *node.UnavailableError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return one("agent", Unknown, "needs root to ask", "run as root")
	case errors.As(err, &away):
		return one("agent", Missing, fmt.Sprintf("does not answer at %s: %v", away.Socket, away.Err), "systemctl status sealiftd; nothing starts while the agent is away")
	case err != nil:
		return one("agent", Missing, firstLine(err.Error()), hintOf(err))
	}
	defer c.Close()
	s, err := c.Status(ctx, &nodev1.StatusRequest{})
	if err != nil {
		return one("agent", Missing, firstLine(err.Error()), "journalctl -u sealiftd")
	}
	l := s.GetLog()
	state := eventlog.State{Name: eventlog.Name(l.GetState()), Acknowledged: l.GetAcknowledged(), Class: tpm.Class(s.GetTpm().GetClass())}
	detail := fmt.Sprintf("%s, log %s", s.GetBuild(), state.Name)
	switch {
	case state.Name == eventlog.Trusted:
		return one("agent", Good, detail, "")
	case state.AllowsStarts():
		return one("agent", Note, detail+": "+l.GetReason(), l.GetHint())
	}
	return one("agent", Missing, detail+": "+l.GetReason(), cmp.Or(l.GetHint(), "sealift status; docs/operations.md says what each state means"))
}

func policies(_ context.Context, p Paths) []Result {
	set, err := policy.LoadDir(p.PolicyDir)
	if errors.Is(err, fs.ErrPermission) {
		return one("policy", Unknown, "needs root to read", "run as root")
	}
	if err != nil {
		return one("policy", Missing, firstLine(err.Error()), "sealift policy check lists everything; the agent takes a directory as a whole or not at all")
	}
	if n := len(set.Policies()); n > 0 {
		return one("policy", Good, fmt.Sprintf("%d in %s", n, p.PolicyDir), "")
	}
	return one("policy", Good, "none: content is enforced, everything else recorded", "")
}

func trust(_ context.Context, p Paths) []Result {
	keys, err := reference.LoadTrust(p.TrustDir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return one("trust", Unknown, "needs root to read", "run as root")
	case err != nil:
		return one("trust", Missing, firstLine(err.Error()), hintOf(err))
	case len(keys) == 0:
		return one("trust", Absent, "no key in "+p.TrustDir, "only needed for signed references")
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name
	}
	return one("trust", Good, strings.Join(names, ", "), "")
}

// lowSpace is what the log wants to have left.
const lowSpace = 64 << 20

func space(_ context.Context, p Paths) []Result {
	dir := p.StateDir
	if _, err := os.Stat(dir); err != nil {
		dir = "/var/lib"
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return one("disk", Unknown, err.Error(), "")
	}
	free := st.Bavail * uint64(st.Bsize)
	detail := fmt.Sprintf("%d MB free in %s", free/1e6, dir)
	if free < lowSpace {
		return one("disk", Missing, detail, "a start is refused when its record cannot be written: make room")
	}
	return one("disk", Good, detail, "")
}
