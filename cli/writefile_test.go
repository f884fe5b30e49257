package cli

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What is named as an output may be more than a file: root's /dev/null must
// stay a device, and a link keep leading where it led.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	read := func(name, want string) {
		t.Helper()
		if b, err := os.ReadFile(in(name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := writeFile(in(name), []byte(text), 0o640); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	write("new", "one")
	read("new", "one")
	write("new", "two")
	read("new", "two")
	if st, err := os.Stat(in("new")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", st.Mode(), err)
	}

	if err := os.Symlink("new", in("link")); err != nil {
		t.Fatal(err)
	}
	write("link", "three")
	read("new", "three")
	if to, err := os.Readlink(in("link")); err != nil || to != "new" {
		t.Errorf("the link leads to %q, %v", to, err)
	}

	if err := unix.Mkfifo(in("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Open for both, so that neither side waits.
	p, err := os.OpenFile(in("pipe"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	write("pipe", "four")
	b := make([]byte, 8)
	if n, err := p.Read(b); err != nil || string(b[:n]) != "four" {
		t.Errorf("the pipe gave %q, %v", b[:n], err)
	}
	if st, err := os.Lstat(in("pipe")); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe became a %v, %v", st.Mode(), err)
	}

	if err := writeFile(in("new/below"), []byte("x"), 0o600); err == nil {
		t.Error("wrote below a file")
	}
	if err := writeFile(dir, []byte("x"), 0o600); err == nil {
		t.Error("wrote over a directory")
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 3 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}
