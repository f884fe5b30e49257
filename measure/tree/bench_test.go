package tree_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/tree"
)

// benchTree makes about 400 MiB as an image has them: many small files, some
// libraries, a few big ones.
func benchTree(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	block := make([]byte, 64<<20)
	for i := 0; i < len(block); i += 8 {
		v := rng.Uint64()
		for k := range 8 {
			block[i+k] = byte(v >> (8 * k))
		}
	}
	write := func(name string, size int) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			b.Fatal(err)
		}
		at := rng.IntN(len(block) - size + 1)
		if err := os.WriteFile(p, block[at:at+size], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 6000 {
		write(fmt.Sprintf("share/d%d/f%d", i%150, i), rng.IntN(12<<10))
	}
	for i := range 300 {
		write(fmt.Sprintf("lib/l%d", i), rng.IntN(1<<20))
	}
	for i := range 4 {
		write(fmt.Sprintf("opt/big%d", i), 50<<20)
	}
	time.Sleep(20 * time.Millisecond) // no file is younger than a tick
	return dir
}

// BenchmarkMeasure compares first-use measuring with sha256sum of the same files
// on the same number of cores, turn by turn in one run. "ratio" is the median of
// the turns' ratios; below 1 means faster than sha256sum.
func BenchmarkMeasure(b *testing.B) {
	if _, err := exec.LookPath("sha256sum"); err != nil {
		b.Fatal(err)
	}
	dir := benchTree(b)
	var files []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	list := strings.Join(files, "\x00")
	peer := func() time.Duration {
		cmd := exec.Command("xargs", "-0", "-n", "256", "-P", strconv.Itoa(runtime.GOMAXPROCS(0)), "sha256sum")
		cmd.Stdin = strings.NewReader(list)
		start := time.Now()
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	ours := func() time.Duration {
		start := time.Now()
		res, err := tree.Measure(b.Context(), dir, tree.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if res.Files != int64(len(files)) || res.Binding.Class() != tree.ClassTree {
			b.Fatalf("%d files, class %s %s", res.Files, res.Binding.Class(), res.Binding.Reason())
		}
		return time.Since(start)
	}
	peer() // warm the cache
	var ratios, mine, theirs []float64
	for b.Loop() {
		a, p := ours(), peer()
		mine, theirs = append(mine, a.Seconds()), append(theirs, p.Seconds())
		ratios = append(ratios, a.Seconds()/p.Seconds())
	}
	slices.Sort(ratios)
	slices.Sort(mine)
	slices.Sort(theirs)
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
	b.ReportMetric(ratios[0], "ratio-min")
	b.ReportMetric(ratios[len(ratios)-1], "ratio-max")
	b.ReportMetric(mine[len(mine)/2], "ours-s")
	b.ReportMetric(theirs[len(theirs)/2], "sha256sum-s")
}

// BenchmarkCheck60000 is what a warm start pays for an image of 60,000 files.
func BenchmarkCheck60000(b *testing.B) {
	dir := b.TempDir()
	for i := range 60_000 {
		if i%40 == 0 {
			if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("d%d", i/40)), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("d%d/file%d", i/40, i)), []byte("x"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	res, err := tree.Measure(b.Context(), dir, tree.Options{})
	if err != nil {
		b.Fatal(err)
	}
	if res.Binding.Class() != tree.ClassTree {
		b.Fatal(res.Binding.Reason())
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := res.Binding.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
