package applyoracle

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/continuity/fs"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// stack makes two layers as builders do: whiteouts and opaque marks come first,
// directories before what is in them, no links as parents. The order of other
// tars matters on a cumulative tree and not in a layer's own directory, so that
// no manifest can tell; such images are refused by differences.
func stack(seed uint64) [2][]byte {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 11))}
	var out [2][]byte
	var below []string
	for i := range out {
		g.tar, g.dirs, g.files, g.all = rawTar{}, nil, nil, nil
		hidden := map[string]bool{}
		for _, p := range below {
			if g.IntN(8) == 0 && !within(hidden, p) {
				g.tar.add(g.base('0', path.Join(path.Dir(p), ".wh."+path.Base(p))))
				hidden[p] = true
			}
		}
		for range 3 + g.IntN(20) {
			g.plain(hidden)
		}
		below = append(append([]string{}, g.files...), g.dirs...)
		out[i] = g.tar.end()
	}
	return out
}

// within reports that a directory above p is hidden: nothing below it is there
// to be hidden.
func within(hidden map[string]bool, p string) bool {
	for q := range hidden {
		if strings.HasPrefix(p, q+"/") || strings.HasPrefix(q, p+"/") {
			return true
		}
	}
	return false
}

// plain adds an entry whose parents were named by the same layer.
func (g *generator) plain(hidden map[string]bool) {
	name := pick(g, names) + strconv.Itoa(g.IntN(3))
	if len(g.dirs) > 0 && g.IntN(3) > 0 {
		name = path.Join(pick(g, g.dirs), name)
	}
	if g.seen(name) || hidden[name] || within(hidden, name) {
		return
	}
	switch k := g.IntN(8); {
	case k < 3:
		h := g.base('5', name+"/")
		delete(h.pax, "SCHILY.xattr.system.posix_acl_default") // refused by Merge; see TestMerge there
		g.dirs = append(g.dirs, name)
		g.add(h)
	case k == 3 && len(g.files) > 0:
		h := g.base('1', name)
		h.link = pick(g, g.files)
		g.add(h)
	case k == 4:
		h := g.base('2', name)
		h.link = "nowhere"
		g.add(h)
	case k == 5:
		h := g.base('6', name)
		g.add(h)
	default:
		h := g.base('0', name)
		h.body = []byte(name)
		g.files = append(g.files, name)
		g.add(h)
	}
}

// TestNative unpacks layers over copies, as the native snapshotter keeps them,
// and compares the copy a container gets with the merged manifests.
func TestNative(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	for _, line := range Lines {
		t.Run(string(line), func(t *testing.T) {
			equal, refused := 0, map[string]int{}
			for seed := *first; seed < *first+uint64(*count)/6; seed++ {
				var m *layer.MeaninglessError
				if err := native(t, line, seed); errors.As(err, &m) {
					refused[m.Reason]++
				} else if err == nil {
					equal++
				}
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			t.Logf("equal %d, refused %v", equal, refused)
			if equal*5 < *count/6*3 {
				t.Errorf("only %d stacks of %d have a meaning", equal, *count/6)
			}
		})
	}
}

func native(t *testing.T, line Line, seed uint64) error {
	base, err := os.MkdirTemp("", "applyoracle")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	var manifests []*layer.Manifest
	dir := ""
	copyOf := func(name string) string {
		next := filepath.Join(base, name)
		if dir == "" {
			err = os.Mkdir(next, 0o755)
		} else {
			err = fs.CopyDir(next, dir, fs.WithAllowXAttrErrors())
		}
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	for i, data := range stack(seed) {
		m, err := layer.FromTar(bytes.NewReader(data))
		if err != nil {
			return err
		}
		manifests = append(manifests, m)
		dir = copyOf(strconv.Itoa(i))
		if err := line.Native(t.Context(), dir, bytes.NewReader(data)); err != nil {
			t.Errorf("unpacking: %v", err)
		}
	}
	dir = copyOf("container")
	want, err := layer.Merge(manifests)
	var meaningless *layer.MeaninglessError
	if errors.As(err, &meaningless) {
		return err
	} else if err != nil {
		t.Error(err)
		return err
	}
	res, err := tree.Measure(t.Context(), dir, tree.Options{Want: want, Native: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range res.Differences {
		t.Error(d)
	}
	if res.Manifest.TreeDigest() != want.TreeDigest() {
		t.Errorf("digest %s, want %s", res.Manifest.TreeDigest(), want.TreeDigest())
	}
	return nil
}
