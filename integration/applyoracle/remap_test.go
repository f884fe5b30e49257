package applyoracle

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// The mapping that every tree is remapped by: two ranges with a hole between
// them, so that some owners have no place.
var (
	uids = layer.IDMap{{Container: 0, Host: 1000, Size: 500}, {Container: 501, Host: 200000, Size: 1 << 20}}
	gids = layer.IDMap{{Container: 0, Host: 3000, Size: 1 << 20}}
)

// remap changes owners below root as the line's client does for a container
// with a user namespace (remapRootFS in snapshotter_opts_unix.go): before
// containerd 2, without regard to the bits that chown takes away.
func remap(line Line, root string) error {
	return filepath.Walk(root, func(path string, info fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		u, uok := uids.Host(st.Uid)
		g, gok := gids.Host(st.Gid)
		if !uok || !gok {
			return &layer.UnmappedError{Path: path, UID: st.Uid, GID: st.Gid}
		}
		if err := os.Lchown(path, int(u), int(g)); err != nil {
			return err
		}
		if mode := info.Mode(); line != Line1 && mode&os.ModeSymlink == 0 && mode&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky) != 0 {
			return os.Chmod(path, mode)
		}
		return nil
	})
}

// TestRemap unpacks stacks of generated layers, remaps what overlayfs shows of
// them as containerd does, and compares the layer that makes with what the
// manifests say.
func TestRemap(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	for _, line := range Lines {
		t.Run(string(line), func(t *testing.T) {
			equal, unmapped, special, hidden := 0, 0, 0, 0
			for seed := *first; seed < *first+uint64(*count)/15; seed++ {
				want, layers := remapped(t, line, seed)
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
				switch {
				case want == nil && layers > 0:
					unmapped++
				case want != nil:
					equal++
					if want.Special() != nil {
						special++
					}
					if layers > len(want.Records) {
						hidden++
					}
				}
			}
			t.Logf("equal %d, of these %d with special bits and %d with entries that a layer hides; with an owner outside the mapping %d", equal, special, hidden, unmapped)
			if equal < *count/60 || unmapped == 0 || hidden == 0 || (special > 0) != (line == Line2) {
				t.Error("the generated layers do not try what they are for")
			}
		})
	}
}

// remapped returns what one stack was remapped to, nil if it could not be, and
// how many records its layers have; 0 for a stack that cannot be unpacked.
func remapped(t *testing.T, line Line, seed uint64) (*layer.Manifest, int) {
	base, err := os.MkdirTemp("", "applyoracle")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	var dirs string
	var parents []string
	var found []layer.Found
	records := 0
	for i := range 3 {
		data := generate(4*seed+uint64(i), 20)
		want, err := layer.FromTar(bytes.NewReader(data))
		if err != nil {
			continue
		}
		dir := filepath.Join(base, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if line.Overlay(t.Context(), dir, bytes.NewReader(data), parents) != nil {
			continue
		}
		res, err := tree.Measure(t.Context(), dir, tree.Options{Want: want})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Differences) > 0 {
			continue // the known case of TestEquality
		}
		found = append(found, layer.Found{Manifest: want, Implied: res.Implied})
		parents = append([]string{dir}, parents...)
		dirs = dir + ":" + dirs
		records += len(want.Records)
	}
	if len(found) < 2 {
		return nil, 0
	}
	upper, root := filepath.Join(base, "upper"), filepath.Join(base, "root")
	for _, d := range []string{upper, root, filepath.Join(base, "work")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "index=off,lowerdir=" + dirs[:len(dirs)-1] + ",upperdir=" + upper + ",workdir=" + filepath.Join(base, "work")
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	done := remap(line, root)
	if err := unix.Unmount(root, 0); err != nil {
		t.Fatal(err)
	}
	if errors.Is(done, os.ErrNotExist) {
		return nil, 0 // overlayfs lists a whiteout that hides nothing, and then has no such name
	}
	view, err := layer.Overlaid(found)
	if err != nil {
		t.Fatal(err)
	}
	want, err := view.Chowned(uids, gids, line != Line1)
	var unmapped *layer.UnmappedError
	if errors.As(done, &unmapped) != errors.As(err, &unmapped) {
		t.Fatalf("containerd says %v, the manifests %v", done, err)
	}
	if err != nil {
		return nil, records
	}
	if done != nil {
		t.Fatal(done)
	}
	res, err := tree.Measure(t.Context(), upper, tree.Options{Want: want, CopiedUp: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range res.Differences {
		t.Error(d)
	}
	if res.Manifest.Digest() != want.Digest() {
		t.Errorf("digest %s, want %s", res.Manifest.Digest(), want.Digest())
	}
	return want, records
}
