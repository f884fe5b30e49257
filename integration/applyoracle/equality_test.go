package applyoracle

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

var (
	count = flag.Int("tars", 3000, "number of generated tars")
	first = flag.Uint64("first", 1, "seed of the first tar")
)

// tally counts, by refusal reason, what both sides made of the tars.
type tally struct {
	equal, bothRefuse int
	lowerFails        int            // cannot be unpacked above this lower layer, by the lower layer's fault
	inherits          int            // has extended attributes that the unpacker took from this lower layer
	onlyRefused       map[string]int // by FromTar, although it can be unpacked
	justRefused       map[string]int // by both
}

// TestEquality unpacks generated tars with both containerd lines and compares
// what is on disk with what the tar's manifest says.
//
// It pins: a tar that FromTar accepts can be unpacked and measures to its
// manifest, with and without lower layers and under any umask; a tar that cannot
// be unpacked is refused.
func TestEquality(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	for _, line := range Lines {
		t.Run(string(line), func(t *testing.T) {
			tl := tally{onlyRefused: map[string]int{}, justRefused: map[string]int{}}
			for seed := *first; seed < *first+uint64(*count); seed++ {
				tl.one(t, line, seed)
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			tl.report(t)
		})
	}
}

func (tl *tally) one(t *testing.T, line Line, seed uint64) {
	data := generate(seed, 30)
	umask := unix.Umask([]int{0o022, 0o077, 0}[seed%3])
	defer unix.Umask(umask)
	base, err := os.MkdirTemp("", "applyoracle")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)

	want, refusal := layer.FromTar(bytes.NewReader(data))
	var meaningless *layer.MeaninglessError
	if refusal != nil && !errors.As(refusal, &meaningless) {
		t.Errorf("FromTar: %v", refusal)
	}
	for _, withParents := range []bool{false, true} {
		var parents []string
		if withParents {
			parents = lowerLayer(t, line, base, seed)
		}
		dir := filepath.Join(base, map[bool]string{false: "alone", true: "above"}[withParents])
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		applied := line.Overlay(t.Context(), dir, bytes.NewReader(data), parents)
		switch {
		case refusal != nil && applied != nil:
			tl.bothRefuse++
			tl.justRefused[meaningless.Reason]++
		case refusal != nil:
			tl.onlyRefused[meaningless.Reason]++
		case applied != nil && withParents:
			tl.lowerFails++ // the same tar was unpacked without it just before
		case applied != nil:
			t.Errorf("parents %v: FromTar accepts what cannot be unpacked: %v", withParents, applied)
		default:
			tl.compare(t, dir, want, parents)
		}
	}
}

func (tl *tally) compare(t *testing.T, dir string, want *layer.Manifest, parents []string) {
	res, err := tree.Measure(t.Context(), dir, tree.Options{Want: want})
	if err != nil {
		t.Error(err)
		return
	}
	if len(parents) > 0 && inherited(t, parents[0], res.Differences) {
		tl.inherits++
		return
	}
	for _, d := range res.Differences {
		t.Errorf("parents %v: %s", parents, d)
	}
	if res.Manifest.Digest() != want.Digest() {
		t.Errorf("parents %v: digest %s, want %s", parents, res.Manifest.Digest(), want.Digest())
	}
	tl.equal++
}

// inherited reports the one known case in which a good layer differs: an
// unnamed directory got a lower directory's extended attributes, and kept them
// when it was named later, or handed its default ACL down. No manifest of the
// tar alone can know; docs/layer-digest.md says that such layers are refused.
func inherited(t *testing.T, lower string, diffs []layer.Difference) bool {
	t.Helper()
	for _, d := range diffs {
		if d.Kind != layer.KindXattr || !strings.HasSuffix(d.Wanted, " absent") {
			return false
		}
	}
	if len(diffs) == 0 {
		return false
	}
	below, err := tree.Measure(t.Context(), lower, tree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(below.Manifest.Records, func(r layer.Record) bool {
		return r.Type == layer.Dir && len(r.Xattrs) > 0
	})
}

// lowerLayer unpacks another generated tar; whatever of it can be unpacked is
// good enough as a lower layer.
func lowerLayer(t *testing.T, line Line, base string, seed uint64) []string {
	t.Helper()
	dir := filepath.Join(base, "lower")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := line.Overlay(t.Context(), dir, bytes.NewReader(generate(seed+1<<32, 15)), nil); err != nil {
		return []string{dir}
	}
	return []string{dir}
}

func (tl *tally) report(t *testing.T) {
	only := 0
	for _, n := range tl.onlyRefused {
		only += n
	}
	t.Logf("equal %d, refused by both %d, refused by FromTar alone %d, not unpackable above a lower layer %d, inheriting from it %d",
		tl.equal, tl.bothRefuse, only, tl.lowerFails, tl.inherits)
	for name, m := range map[string]map[string]int{"both": tl.justRefused, "FromTar alone": tl.onlyRefused} {
		reasons := make([]string, 0, len(m))
		for r := range m {
			reasons = append(reasons, r)
		}
		sort.Strings(reasons)
		for _, r := range reasons {
			t.Logf("refused by %s: %s: %d", name, r, m[r])
		}
	}
	if tl.equal == 0 {
		t.Error("no tar had a meaning")
	}
	if tl.inherits*50 > tl.equal {
		t.Errorf("%d of %d layers inherit: that should be rare", tl.inherits, tl.equal)
	}
	if only*10 > tl.equal {
		t.Errorf("%d of %d tars that can be unpacked are refused", only, only+tl.equal)
	}
}
