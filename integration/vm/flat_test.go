package vm_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/vm"
)

// What a bound start costs as an image grows, for the class this machine's own
// kernel cannot have: ctr run beside the stock shim's, three of each, taken in
// turns. The machine is too slow for the figures to mean anything but their
// ratio, and nothing here fails because of them.
func TestVMVerityByFiles(t *testing.T) {
	long(t)
	var images []*image.Image
	var refs []string
	sizes := []int{10, 1000, 10000, 60000}
	for _, n := range sizes {
		many := func(busybox string) image.Spec { return image.Many(busybox, n) }
		img, err := made.Image(t.Context(), fmt.Sprintf("many-%d", n), many)
		if err != nil {
			t.Fatal(err)
		}
		images, refs = append(images, img), append(refs, many(image.Busybox("/")).Name)
	}
	m := newMachine(t, vm.NodeOptions{
		Options:    vm.Options{Modules: []string{"erofs", "overlay", "loop"}},
		Containerd: erofs + "enable_fsverity = true\n",
		ImportArgs: []string{"--local", "--snapshotter", "erofs"},
		Images:     images,
	})
	t.Logf("table: %8s %10s %10s %10s %6s", "files", "first ms", "bound ms", "stock ms", "ratio")
	for i, img := range images {
		if err := m.Import(t.Context(), img); err != nil {
			t.Fatal(err)
		}
		run := func(id, runtime string) int {
			out := m.sh(`a=$(date +%%s%%N); ctr run --rm --snapshotter erofs --runtime %s %s %s true >/dev/null; b=$(date +%%s%%N); echo $(( (b-a)/1000000 ))`, runtime, refs[i], id)
			ms, err := strconv.Atoi(out)
			if err != nil {
				t.Fatal(err)
			}
			return ms
		}
		first := run(fmt.Sprintf("first%d", i), node.Sealift)
		var ours, stock []int
		for k := range 3 {
			ours = append(ours, run(fmt.Sprintf("ours%d-%d", i, k), node.Sealift))
			stock = append(stock, run(fmt.Sprintf("stock%d-%d", i, k), node.Stock))
		}
		if log := m.sh("sealift log --json default/ours%d-2", i); !strings.Contains(log, `"verity"`) {
			t.Errorf("%d files: the record does not name the class verity:\n%s", sizes[i], log)
		}
		slices.Sort(ours)
		slices.Sort(stock)
		t.Logf("table: %8d %10d %10d %10d %6.2f", sizes[i], first, ours[1], stock[1], float64(ours[1])/float64(stock[1]))
	}
}
