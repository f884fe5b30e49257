package tamper_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/integration/tamper"
)

// mutations is how many trees are changed at random; SEALIFT_SEED sets the
// first, to see one again.
func mutations() (first, count uint64) {
	count = 120
	if os.Getenv("SEALIFT_TEST") == "long" {
		count = 20_000
	}
	if s, err := strconv.ParseUint(os.Getenv("SEALIFT_SEED"), 10, 64); err == nil {
		return s, 1
	}
	return 1, count
}

// TestMountedView changes layers at random and looks at them mounted: whatever
// a container could see of a change, the agent must refuse. What it cannot see
// is refused too where a layer that something hides is not the image's; a tree
// rewritten as it was is let through.
func TestMountedView(t *testing.T) {
	v := newViewer(t)
	first, count := mutations()
	var seen, hidden, none int
	for seed := first; seed < first+count; seed++ {
		v.restore(t)
		bound := seed%2 == 0
		if bound {
			if resp := v.ask(t); resp.GetCommitted() == nil {
				t.Fatalf("seed %d: the image as it was is refused: %v", seed, resp)
			}
			v.forget(t)
		}
		m := tamper.NewMutator(seed, v.layers, v.upper)
		benign := seed%8 == 0
		var err error
		if benign {
			err = m.Benign()
		} else {
			err = m.Mutate(1 + int(seed%3))
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		resp := v.ask(t)
		differs := v.differs(t)
		refused := resp.GetRefused() != nil
		switch {
		case differs != "" && !refused:
			t.Errorf("seed %d, bound %t: let through:\n\t%s\n%s", seed, bound, strings.Join(m.Did, "\n\t"), differs)
		case benign && refused:
			t.Errorf("seed %d: %s: refused: %v", seed, m.Did, resp)
		case differs != "":
			seen++
		case refused:
			hidden++
			v.documented(t, seed, m, resp)
		default:
			none++
		}
	}
	t.Logf("%d changes a container could see, all refused; %d it could not see, refused; %d that changed nothing, let through", seen, hidden, none)
	if count > 100 && (seen < int(count)/3 || none == 0) {
		t.Errorf("the generator changes too little that can be seen, or everything")
	}
}

// viewer is one container's chain, to be changed again and again.
type viewer struct {
	s           *tamper.Stage
	req         *nodev1.LaunchRequest
	layers      []string // as the machine reaches them
	inside      []string
	upper, work string
	pristine    string
	want        []string
}

func newViewer(t *testing.T) *viewer {
	t.Helper()
	ctx := t.Context()
	s := tamper.TestStage(t, node.Options{Name: "view", Config: "[measure]\nbackground = false\n[log]\nquota = 67108864\n"})
	small, err := made.Image(ctx, "tamper-small", tamper.Small)
	skip.On(t, err)
	v := &viewer{s: s, pristine: s.Inside("/srv/pristine")}
	v.create(t, small)
	for _, dir := range append(slices.Clone(v.inside), v.upper) {
		run(t, "mkdir", "-p", filepath.Join(v.pristine, dir))
		run(t, "cp", "-aT", s.Inside(dir), filepath.Join(v.pristine, dir))
	}
	v.want = v.view(t)
	v.upper = s.Inside(v.upper)
	return v
}

func (v *viewer) create(t *testing.T, small *image.Image) {
	t.Helper()
	ctx := t.Context()
	img, err := v.s.Import(ctx, "view", overlayfs, small)
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.s.Create(ctx, "view", "c", overlayfs, img)
	if err != nil {
		t.Fatal(err)
	}
	if v.req, err = v.s.Request(ctx, "view", c); err != nil {
		t.Fatal(err)
	}
	for _, o := range v.req.GetRootfs()[0].GetOptions() {
		key, val, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			v.inside = strings.Split(val, ":")
			slices.Reverse(v.inside)
		case "upperdir":
			v.upper = val
		case "workdir":
			v.work = val
		}
	}
	for _, d := range v.inside {
		v.layers = append(v.layers, v.s.Inside(d))
	}
}

func (v *viewer) restore(t *testing.T) {
	t.Helper()
	script := "set -e\n"
	for _, dir := range append(slices.Clone(v.layers), v.upper) {
		script += fmt.Sprintf("rm -rf %q; cp -aT %q %q\n", dir, filepath.Join(v.pristine, strings.TrimPrefix(dir, v.s.Inside(""))), dir)
	}
	run(t, "sh", "-c", script)
	v.forget(t)
}

// forget makes it a container that never started to the agent, whose writable
// layer is nobody's work yet.
func (v *viewer) forget(t *testing.T) {
	t.Helper()
	if err := v.s.Forget("view", "c"); err != nil {
		t.Fatal(err)
	}
}

func (v *viewer) ask(t *testing.T) *nodev1.LaunchResponse {
	t.Helper()
	resp, err := v.s.Launch(v.req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func (v *viewer) view(t *testing.T) []string {
	t.Helper()
	lines, err := v.s.Probe().View(v.inside, strings.TrimPrefix(v.upper, v.s.Inside("")), v.work)
	if err != nil {
		return []string{err.Error()}
	}
	for i, l := range lines {
		lines[i] = unnamedTime.ReplaceAllString(l, "$1")
	}
	return lines
}

// unnamedTime is the time of a directory that a layer's tar does not name: it is
// that of the unpacking, so that there is no right one (docs/layer-digest.md).
var unnamedTime = regexp.MustCompile(`^("(?:/etc|/usr|/usr/lib|/unnamed|/unnamed/parent)" 4\d+ \d+:\d+) @\d+`)

// differs says what a container could see of the change.
func (v *viewer) differs(t *testing.T) string {
	t.Helper()
	got := v.view(t)
	if slices.Equal(got, v.want) {
		return ""
	}
	var b strings.Builder
	for _, l := range got {
		if !slices.Contains(v.want, l) {
			fmt.Fprintln(&b, "+", l)
		}
	}
	for _, l := range v.want {
		if !slices.Contains(got, l) {
			fmt.Fprintln(&b, "-", l)
		}
	}
	if b.Len() == 0 {
		return "the order differs"
	}
	return b.String()
}

// documented: what cannot be seen is refused for what is on disk, and never
// because of something about the agent.
func (v *viewer) documented(t *testing.T, seed uint64, m *tamper.Mutator, resp *nodev1.LaunchResponse) {
	t.Helper()
	for _, r := range resp.GetRefused().GetReasons() {
		switch r.GetCode() {
		case "layer-content", "upper-not-empty", "root-attributes", "policy-binding":
		default:
			t.Errorf("seed %d: %s: refused for %v", seed, m.Did, r)
		}
	}
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
}
