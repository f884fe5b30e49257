package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func named(name string) string {
	return "apiVersion: sealift.dev/v1\nkind: WorkloadPolicy\nmetadata: {name: " + name + "}\nspec: {match: {}, level: restricted}\n"
}

func TestLoadDir(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.yaml", named("one"))
	write(t, dir, "a.yaml", named("two"))
	write(t, dir, "README", "not a policy")
	write(t, dir, "a.yaml~", "an editor's copy")
	write(t, dir, ".hidden.yaml", "not a policy")
	s, err := LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Policies()
	if len(p) != 2 || p[0].Name != "one" || p[0].File != filepath.Join(dir, "b.yaml") || !strings.HasPrefix(p[0].Digest, "sha256:") {
		t.Errorf("policies %+v", p)
	}
	write(t, dir, "b.yaml", named("one")+"#")
	again, err := LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() == s.Digest() {
		t.Error("a changed file does not change the set's digest")
	}
}

// A directory that is not there is a host without policies.
func TestLoadDirAbsent(t *testing.T) {
	s, err := LoadDir(filepath.Join(t.TempDir(), "absent"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Evaluate(Subject{Namespace: "x"}), Default(); got.Digest() != want.Digest() {
		t.Errorf("not the default:\n%s", got.Canonical())
	}
}

// Every case is one way in which somebody else than root could slip in a
// policy, or in which one could go unread.
func TestLoadDirRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		prepare    func(t *testing.T, dir string)
	}{
		{"symlink", "symbolic link", func(t *testing.T, dir string) {
			target := write(t, t.TempDir(), "p.yaml", named("p"))
			if err := os.Symlink(target, filepath.Join(dir, "p.yaml")); err != nil {
				t.Fatal(err)
			}
		}},
		{"world-writable file", "can be written by others", func(t *testing.T, dir string) {
			if err := os.Chmod(write(t, dir, "p.yaml", named("p")), 0o646); err != nil {
				t.Fatal(err)
			}
		}},
		{"group-writable directory", "can be written by others", func(t *testing.T, dir string) {
			if err := os.Chmod(dir, 0o775); err != nil {
				t.Fatal(err)
			}
		}},
		{"directory named as a file", "not a regular file", func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "p.yaml"), 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"fifo", "not a regular file", func(t *testing.T, dir string) {
			if err := unix.Mkfifo(filepath.Join(dir, "p.yaml"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"yml", "not read under this name", func(t *testing.T, dir string) { write(t, dir, "p.yml", named("p")) }},
		{"YAML", "not read under this name", func(t *testing.T, dir string) { write(t, dir, "p.YAML", named("p")) }},
		{"json", "not read under this name", func(t *testing.T, dir string) { write(t, dir, "p.json", "{}") }},
		{"huge", "more than", func(t *testing.T, dir string) { write(t, dir, "p.yaml", strings.Repeat("#", MaxFile+1)) }},
		{"one name twice", "is the name of the policy in", func(t *testing.T, dir string) {
			write(t, dir, "p.yaml", named("p"))
			write(t, dir, "q.yaml", named("p"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			c.prepare(t, dir)
			_, err := LoadDir(dir)
			if AsErrors(err) == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestLoadDirOwner(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "p.yaml", named("p"))
	skip.On(t, os.Chown(file, 12345, 0))
	if _, err := LoadDir(dir); err == nil || !strings.Contains(err.Error(), "belongs to uid 12345") {
		t.Errorf("got %v", err)
	}
}

// Every bad file is named, not only the first.
func TestLoadDirListsAll(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "x: 1")
	write(t, dir, "b.yaml", named("ok"))
	write(t, dir, "c.yaml", "y: 1")
	_, err := LoadDir(dir)
	if err == nil || !strings.Contains(err.Error(), "a.yaml:1") || !strings.Contains(err.Error(), "c.yaml:1") {
		t.Errorf("got %v", err)
	}
}

func TestLoadDirIsALink(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "policy.d")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDir(link); AsErrors(err) == nil {
		t.Errorf("got %v", err)
	}
}
