package tamper_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

// TestBoundStart makes, between two starts of one image, the attacks of the
// table in docs/layer-digest.md (class tree) that a whole node is needed for;
// what its tests in measure/tree show of a directory is shown here of a start.
func TestBoundStart(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "binding", Config: "[measure]\nbackground = false\n"})
	mountInside := func(t *testing.T, source, target string) {
		t.Helper()
		strip := func(p string) string { return strings.TrimPrefix(p, s.Inside("")) }
		if _, err := s.Node.Run(t.Context(), "mount", "--bind", strip(source), strip(target)); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		name string
		// code is why the second start is refused; none: it is let through.
		code   string
		attack func(t *testing.T, layer string)
	}{
		{"written through another mount, times put back", "layer-content", func(t *testing.T, layer string) {
			second := s.Inside("/srv/second")
			if err := os.MkdirAll(second, 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Node.Run(t.Context(), "mount", "--bind", strings.TrimPrefix(layer, s.Inside("")), "/srv/second"); err != nil {
				t.Fatal(err)
			}
			rewrite(t, second+"/opt/plain")
			if _, err := s.Node.Run(t.Context(), "umount", "/srv/second"); err != nil {
				t.Fatal(err)
			}
		}},
		{"stored through a mapping made after the first start", "layer-content", func(t *testing.T, layer string) {
			m := mapped(t, layer+"/opt/plain")
			m[3] ^= 1
			if err := errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a writable mapping held after a store", "policy-binding", func(t *testing.T, layer string) {
			m := mapped(t, layer+"/opt/plain")
			// Stored as it was: nothing but the times differs, and the writer stays.
			was := m[3]
			m[3] = was
			if err := putBack(layer+"/opt/plain", unix.Stat_t{Mtim: unix.Timespec{Sec: 1_700_000_000}}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Munmap(m); err != nil {
					t.Error(err)
				}
			})
		}},
		{"a directory renamed away and another in its place", "layer-content", func(t *testing.T, layer string) {
			run(t, "sh", "-euc", `cd "$1"; mv opt ../away; cp -a ../away opt; printf evil > opt/first`, "sh", layer)
		}},
		{"a directory replaced by its copy", "", func(t *testing.T, layer string) {
			run(t, "sh", "-euc", `cd "$1"; mv opt ../copied; cp -a ../copied opt; rm -r ../copied`, "sh", layer)
		}},
		{"a directory renamed away and back", "", func(t *testing.T, layer string) {
			run(t, "sh", "-euc", `cd "$1"; mv opt ../away-and-back; mv ../away-and-back opt`, "sh", layer)
		}},
		{"the whole layer replaced", "layer-content", func(t *testing.T, layer string) {
			run(t, "sh", "-euc", `cd "$1/.."; mv fs was; cp -a was fs; printf evil > fs/opt/first`, "sh", layer)
		}},
		{"another directory mounted over the layer", "layer-content", func(t *testing.T, layer string) {
			over := filepath.Dir(layer) + "/over"
			run(t, "cp", "-a", layer, over)
			run(t, "sh", "-c", `printf evil > "$1/opt/first"`, "sh", over)
			mountInside(t, over, layer)
		}},
		{"a file mounted over one of the layer's", "layer-content", func(t *testing.T, layer string) {
			mountInside(t, layer+"/opt/second", layer+"/opt/first")
		}},
		{"read only", "", func(t *testing.T, layer string) { run(t, "sh", "-c", `tar -C "$1" -c . > /dev/null`, "sh", layer) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := "bind-" + string(rune('a'+i))
			img := imported(t, s, ns)
			layers, err := s.Layers(t.Context(), ns, overlayfs, s.Image)
			if err != nil {
				t.Fatal(err)
			}
			untampered(t, s, ns, img)
			c.attack(t, layers[1])
			verdict(t, launched(t, s, ns, "second", img), c.code)
		})
	}
	t.Run("a writable mapping from before the first start", func(t *testing.T) {
		img := imported(t, s, "bind-old")
		layers, err := s.Layers(t.Context(), "bind-old", overlayfs, s.Image)
		if err != nil {
			t.Fatal(err)
		}
		m := mapped(t, layers[1]+"/opt/plain")
		verdict(t, launched(t, s, "bind-old", "held", img), "policy-binding")
		if err := unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
		verdict(t, launched(t, s, "bind-old", "let-go", img), "")
	})
}

func verdict(t *testing.T, resp *nodev1.LaunchResponse, code string) {
	t.Helper()
	if code == "" {
		if resp.GetCommitted() == nil {
			t.Errorf("refused: %v", resp)
		}
		return
	}
	for _, r := range resp.GetRefused().GetReasons() {
		if r.GetCode() == code {
			return
		}
	}
	t.Errorf("answer %v, wanted a refusal with %s", resp, code)
}

// rewrite changes a byte and puts everything back that can be put back.
func rewrite(t *testing.T, file string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[3] ^= 1
	if err := errors.Join(os.WriteFile(file, b, 0), putBack(file, st)); err != nil {
		t.Fatal(err)
	}
}

func putBack(file string, st unix.Stat_t) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}, 0)
}

// mapped maps a file for writing, and closes it.
func mapped(t *testing.T, file string) []byte {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
