package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func specOf(t *testing.T, text string) *specs.Spec {
	t.Helper()
	var s specs.Spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	if s.Linux == nil {
		s.Linux = &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}
	}
	if len(s.Linux.Namespaces) == 0 {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	}
	return &s
}

func TestCheck(t *testing.T) {
	p := Protected{
		Paths:   []string{RunDir, State, "/dev/tpmrm0"},
		Devices: []Device{{"c", 10, 224}},
		Resolve: func(s string) (string, error) {
			if s == "/home/x/link" {
				return "/run/sealift/node.sock", nil
			}
			if s == "/var/run/sealift" {
				return "/run/sealift", nil
			}
			return "", errors.New("no such file")
		},
	}
	bind := func(source string) string {
		return `{"mounts":[{"destination":"/d","type":"bind","source":"` + source + `","options":["rbind","ro"]}]}`
	}
	for _, c := range []struct{ name, spec, code string }{
		{"nothing", `{}`, ""},
		{"an ordinary bind", bind("/etc/hosts"), ""},
		{"a neighbour", bind("/run/sealift-other"), ""},
		{"proc", `{"mounts":[{"destination":"/proc","type":"proc","source":"proc"}]}`, ""},
		{"the socket", bind("/run/sealift/node.sock"), "mount-sealift"},
		{"the state", bind("/var/lib/sealift"), "mount-sealift"},
		{"unclean", bind("/run/./x/../sealift/"), "mount-sealift"},
		{"above", bind("/run"), CodeMountAbove},
		{"the root", bind("/"), CodeMountAbove},
		{"through a symlink", bind("/home/x/link"), "mount-sealift"},
		{"through /var/run", bind("/var/run/sealift"), "mount-sealift"},
		{"relative", bind("../../sealift"), "mount-sealift"},
		{"by option only", `{"mounts":[{"destination":"/d","type":"none","source":"/run/sealift","options":["bind"]}]}`, "mount-sealift"},
		{"an overlay", `{"mounts":[{"destination":"/d","type":"overlay","source":"overlay","options":["lowerdir=/a:/var/lib/sealift"]}]}`, "mount-sealift"},
		{"devtmpfs", `{"mounts":[{"destination":"/dev","type":"devtmpfs","source":"dev"}]}`, "mount-sealift"},
		{"the TPM's node", bind("/dev/tpmrm0"), "mount-sealift"},
		{"all of /dev", bind("/dev"), CodeMountAbove},
		{"the host's root", `{"root":{"path":"/"}}`, "mount-sealift"},
		{"criu", `{"annotations":{"org.criu.config":"/x"}}`, "criu-config"},
		{"a device by name", `{"linux":{"devices":[{"path":"/dev/tpm3","type":"c","major":1,"minor":2}]}}`, "device-tpm"},
		{"a device by number", `{"linux":{"devices":[{"path":"/dev/x","type":"c","major":10,"minor":224}]}}`, "device-tpm"},
		{"an unbuffered device", `{"linux":{"devices":[{"path":"/dev/x","type":"u","major":10,"minor":224}]}}`, "device-tpm"},
		{"another device", `{"linux":{"devices":[{"path":"/dev/tpmx","type":"b","major":10,"minor":224}]}}`, ""},
		{"a rule", `{"linux":{"resources":{"devices":[{"allow":true,"type":"c","major":10,"minor":224,"access":"rw"}]}}}`, "device-tpm"},
		{"a rule for its major", `{"linux":{"resources":{"devices":[{"allow":true,"type":"c","major":10,"access":"r"}]}}}`, "device-tpm"},
		{"taken back", `{"linux":{"resources":{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":224,"access":"rwm"}]}}}`, ""},
		{"mknod only", `{"linux":{"resources":{"devices":[{"allow":true,"type":"c","access":"m"}]}}}`, ""},
		{"the host's mount namespace", `{"linux":{"namespaces":[{"type":"pid"}]}}`, "mount-namespace"},
		{"another's mount namespace", `{"linux":{"namespaces":[{"type":"mount","path":"/proc/1/ns/mnt"}]}}`, "mount-namespace"},
	} {
		got := p.Check(specOf(t, c.spec), "/run/containerd/b")
		switch {
		case c.code == "" && len(got) > 0:
			t.Errorf("%s: %v", c.name, got)
		case c.code != "" && (len(got) == 0 || got[0].Code != c.code):
			t.Errorf("%s: %v, want %s", c.name, got, c.code)
		}
	}
}

func TestHostProtectedResolves(t *testing.T) {
	p, err := HostProtected()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/run", link); err != nil {
		t.Fatal(err)
	}
	s := specOf(t, `{"mounts":[{"destination":"/d","type":"bind","source":"`+link+`"}]}`)
	if got := p.Check(s, "/"); len(got) != 1 {
		t.Errorf("a link to /run: %v", got)
	}
}

func TestReadConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(plain), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadConfig(dir); err != nil || string(b) != plain {
		t.Fatalf("%s, %v", b, err)
	}
	link := filepath.Join(t.TempDir(), "b")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(link); err == nil {
		t.Error("a bundle behind a symbolic link was read")
	}
	if err := os.Rename(path, path+".real"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("config.json.real", path); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(dir); err == nil {
		t.Error("config.json behind a symbolic link was read")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(dir); err == nil {
		t.Error("a directory was read")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(maxConfig + 1); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(dir); err == nil {
		t.Error("a config.json beyond the limit was read")
	}
}

func TestWithStrict(t *testing.T) {
	got := withStrict([]string{"index=off", "metacopy=on", "lowerdir=/a"})
	want := []string{"index=off", "metacopy=on", "lowerdir=/a", "redirect_dir=nofollow"}
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}

// A tenant chooses how many mounts a specification has and how long their sources
// are; it may not choose how long everybody waits.
func TestCheckOfManyLongSources(t *testing.T) {
	looked := 0
	p := Protected{Paths: []string{RunDir, State}, Identify: func(path string) (FileID, error) {
		looked++
		if path == "/" || path == "/srv" {
			return FileID{Ino: uint64(len(path))}, nil
		}
		return FileID{}, fs.ErrNotExist
	}}
	s := specOf(t, `{}`)
	const mounts = 1000
	for i := range mounts {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Destination: "/d", Options: []string{"bind"},
			Source: fmt.Sprintf("/srv/%d/%s", i, strings.Repeat("n/", 1000))})
	}
	if v := p.Check(s, "/bundle"); len(v) != 0 {
		t.Errorf("%v", v[0])
	}
	if looked > 2*mounts {
		t.Errorf("%d mounts: %d looks at the file system", mounts, looked)
	}
}

// A protected path is known by what it is, also far down a path, and the deepest
// of several names counts.
func TestCheckKnowsAliases(t *testing.T) {
	p := Protected{Paths: []string{"/run/sealift", "/var/lib/sealift"}, Identify: func(path string) (FileID, error) {
		switch path {
		case "/run/sealift", "/srv/a/run":
			return FileID{Ino: 1}, nil
		case "/var/lib/sealift", "/srv/a/run/b":
			return FileID{Ino: 2}, nil
		case "/run", "/srv/above":
			return FileID{Ino: 3}, nil
		case "/", "/srv", "/srv/a", "/srv/above/x":
			return FileID{Ino: 100 + uint64(len(path))}, nil
		case "/srv/unreadable":
			return FileID{}, fs.ErrPermission
		case "/srv/unreadable/run":
			return FileID{Ino: 1}, nil
		}
		return FileID{}, fs.ErrNotExist
	}}
	for source, want := range map[string]string{
		"/srv/a/run": "/run/sealift", "/srv/a/run/node.sock": "/run/sealift", "/srv/a/run/b": "/var/lib/sealift",
		"/srv/a/run/b/log/1": "/var/lib/sealift", "/srv/above": "/run/sealift", "/srv/unreadable/run": "/run/sealift",
		"/srv/above/x": "", "/srv/a": "", "/srv/none/run": "",
	} {
		if got, how := p.reaches(p.aliases(), source, "/bundle"); got != want {
			t.Errorf("%s reaches %q (%s), want %q", source, got, how, want)
		}
	}
}
