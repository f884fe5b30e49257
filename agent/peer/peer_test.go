package peer

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
)

const (
	strangerEnv = "SEALIFT_TEST_STRANGER"
	greeting    = "root, by its uid"
)

// TestMain is also the stranger: it connects and says who it is.
func TestMain(m *testing.M) {
	socket := os.Getenv(strangerEnv)
	if socket == "" {
		os.Exit(m.Run())
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		os.Exit(1)
	}
	if _, err := io.Copy(os.Stdout, c); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// none owns no cgroup.
type none struct{}

func (none) OwnsCgroup(string) (string, bool) { return "", false }

// all owns every cgroup.
type all struct{}

func (all) OwnsCgroup(string) (string, bool) { return "default/c", true }

// naive is what a check by uid alone says.
func naive(c *net.UnixConn) bool {
	cred, err := credentials(c)
	return err == nil && cred.Uid == 0
}

// connect has a process of this very program connect, and returns our end and
// a function that greets it and ends it.
func connect(t *testing.T, attr *syscall.SysProcAttr, program string) (*net.UnixConn, func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out strings.Builder
	cmd := exec.Command(program)
	cmd.Env, cmd.Stdout, cmd.SysProcAttr = append(os.Environ(), strangerEnv+"="+path), &out, attr
	err = cmd.Start()
	if errors.Is(err, unix.EPERM) {
		skip.On(t, os.ErrPermission)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	return c, func() string {
		if naive(c) {
			if _, err := io.WriteString(c, greeting); err != nil {
				t.Error(err)
			}
		}
		c.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		return out.String()
	}
}

// Root in a container is uid 0, runs a copy of our file if it likes, and is
// greeted by whoever asks for the uid alone; it is not let in here.
func TestCheck(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, append(b, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, program, denied string
		attr                  *syscall.SysProcAttr
		owner                 Containers
	}{
		{"our own program", self, "", nil, none{}},
		{"in another mount namespace", self, "mnt namespace", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}, none{}},
		{"in another process namespace", self, "pid namespace", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, none{}},
		{"in another user namespace", self, "user namespace", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{Size: 1 << 16}}, GidMappings: []syscall.SysProcIDMap{{Size: 1 << 16}}}, none{}},
		{"in a container's cgroup", self, "cgroup of container default/c", nil, all{}},
		{"another program", other, "not one of our executables", nil, none{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, err := NewChecker(map[Role][]string{Shim: {self}}, filepath.Join(t.TempDir(), "known"), c.owner)
			if err != nil {
				t.Fatal(err)
			}
			conn, end := connect(t, c.attr, c.program)
			p, err := k.Check(conn)
			if said := end(); said != greeting {
				t.Errorf("the attack does not work on a check by uid: the stranger was told %q", said)
			}
			if c.denied == "" {
				if err != nil || p.Role != Shim {
					t.Errorf("%+v, %v", p, err)
				}
				return
			}
			var denied *DeniedError
			if !errors.As(err, &denied) || !strings.Contains(denied.Reason, c.denied) {
				t.Errorf("error %v, wanted it denied for %q", err, c.denied)
			}
		})
	}
}

// A shim that was replaced while it ran is still known, also to the next agent.
func TestReplaced(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	shim, store := filepath.Join(dir, "shim"), filepath.Join(dir, "known")
	if err := os.WriteFile(shim, b, 0o755); err != nil {
		t.Fatal(err)
	}
	paths := map[Role][]string{Shim: {shim}}
	if _, err := NewChecker(paths, store, none{}); err != nil {
		t.Fatal(err)
	}
	conn, end := connect(t, nil, shim)
	defer end()
	if err := errors.Join(os.WriteFile(shim+".new", []byte("a later release"), 0o755), os.Rename(shim+".new", shim)); err != nil {
		t.Fatal(err)
	}
	next, err := NewChecker(paths, store, none{})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := next.Check(conn); err != nil || p.Role != Shim {
		t.Errorf("%+v, %v", p, err)
	}
}
