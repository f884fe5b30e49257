package runtime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/go-runc"
)

// recorder notes commands instead of running them.
type recorder struct{ commands [][]string }

func (r *recorder) Start(c *exec.Cmd) (chan runc.Exit, error) {
	r.commands = append(r.commands, slices.Clone(c.Args))
	return make(chan runc.Exit, 1), nil
}
func (r *recorder) StartLocked(c *exec.Cmd) (chan runc.Exit, error) { return r.Start(c) }
func (r *recorder) Wait(*exec.Cmd, chan runc.Exit) (int, error)     { return 0, nil }
func (r *recorder) last() []string                                  { return r.commands[len(r.commands)-1] }

func through(t *testing.T) (*Monitor, *recorder) {
	t.Helper()
	rec := &recorder{}
	m := NewMonitor(rec)
	before := runc.Monitor
	runc.Monitor = m
	t.Cleanup(func() { runc.Monitor = before })
	return m, rec
}

func TestMonitorSendsRuncToThePrivateBundle(t *testing.T) {
	m, rec := through(t)
	private, err := Private("/p", "ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	r := &runc.Runc{Root: "/run/runc/ns", Log: "/b/c1/log.json", LogFormat: runc.JSON, PdeathSignal: 9, SystemdCgroup: true}
	ctx := context.Background()

	// go-runc keeps the text of this error only.
	if err := r.Create(ctx, "c1", "/b/c1", nil); err == nil {
		t.Errorf("create of what was not measured: %v", err)
	}
	if _, err := r.Restore(ctx, "c1", "/b/c1", &runc.RestoreOpts{}); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("restore of what was not measured: %v", err)
	}
	if len(rec.commands) != 0 {
		t.Fatalf("commands ran: %v", rec.commands)
	}
	m.Admit(&Measured{Bundle: "/b/c1", Private: private})
	if err := r.Create(ctx, "c1", "/b/c1", &runc.CreateOpts{PidFile: "/b/c1/init.pid", NoPivot: true}); err != nil {
		t.Fatal(err)
	}
	if i := slices.Index(rec.last(), "--bundle"); i < 0 || rec.last()[i+1] != "/p/ns/c1" {
		t.Errorf("create: %v", rec.last())
	}
	// The log and the pid file stay where containerd's code reads them.
	if !slices.Contains(rec.last(), "/b/c1/init.pid") || !slices.Contains(rec.last(), "/b/c1/log.json") {
		t.Errorf("create: %v", rec.last())
	}
	if _, err := r.Restore(ctx, "c1", "/b/c1", &runc.RestoreOpts{Detach: true}); err != nil {
		t.Fatal(err)
	}
	if i := slices.Index(rec.last(), "--bundle"); i < 0 || rec.last()[i+1] != "/p/ns/c1" {
		t.Errorf("restore: %v", rec.last())
	}
	if err := r.Kill(ctx, "c1", 9, nil); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(rec.last(), "/p/ns/c1") {
		t.Errorf("kill: %v", rec.last())
	}
	m.Forget("/b/c1")
	if _, err := r.Run(ctx, "c1", "/b/c1", nil); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("run of what was forgotten: %v", err)
	}
}

// An id or a directory may look like a flag's value or a command.
func TestParseCommand(t *testing.T) {
	for _, c := range []struct {
		args           []string
		name, root, id string
		bundle         string
	}{
		{[]string{"runc", "--root", "/r", "--log", "create", "--log-format", "json", "start", "create"}, "start", "/r", "create", ""},
		{[]string{"runc", "--debug", "--root", "/r", "--systemd-cgroup", "--rootless=false", "create", "--bundle", "--bundle", "--no-pivot", "x"}, "create", "/r", "x", "--bundle"},
		{[]string{"runc", "--version"}, "", "", "", ""},
		{[]string{"runc"}, "", "", "", ""},
		{[]string{"runc", "--root"}, "", "", "", ""},
	} {
		got := parseCommand(c.args)
		bundle := ""
		if got.bundle > 0 {
			bundle = got.args[got.bundle]
		}
		if got.name != c.name || got.root != c.root || got.id != c.id || bundle != c.bundle {
			t.Errorf("%v: %+v", c.args, got)
		}
	}
}

func TestPrivateBundle(t *testing.T) {
	root := filepath.Join(t.TempDir(), "bundles")
	for _, bad := range [][2]string{{"..", "c"}, {"ns", "../c"}, {"ns", ""}, {"", "c"}, {"a/b", "c"}} {
		if _, err := Private(root, bad[0], bad[1]); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	b, err := Private(root, "ns", "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Reserve("/c/c1", nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Write([]byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := b.Write([]byte("two")); !errors.Is(err, os.ErrExist) {
		t.Errorf("config.json was written twice: %v", err)
	}
	for path, mode := range map[string]os.FileMode{root: 0o700, filepath.Join(root, "ns"): 0o700, b.Dir: 0o700, filepath.Join(b.Dir, "config.json"): 0o600} {
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != mode {
			t.Errorf("%s has mode %v", path, st.Mode())
		}
	}
	if err := b.Reserve("/c/c1", func() bool { return false }); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("a living container's bundle was overwritten: %v", err)
	}
	if err := b.Reserve("/c/c1", func() bool { return true }); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(b.Dir, "config.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stale config.json stays: %v", err)
	}
	for owner, want := range map[string]bool{"/c/c1": true, "/d/c1": false} {
		if got, err := b.Owned(owner); err != nil || got != want {
			t.Errorf("owned by %s: %v, %v", owner, got, err)
		}
	}
	for range 2 {
		if err := b.Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "ns")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace's directory stays: %v", err)
	}
	// A directory that others can write could be a trap.
	if err := os.Mkdir(filepath.Join(root, "ns"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "ns"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := b.Reserve("/c/c1", nil); err == nil {
		t.Error("wrote below a directory that is open to others")
	}
}
