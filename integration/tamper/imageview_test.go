package tamper_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/integration/tamper"
)

// TestMountedImageView changes image files at random, their bytes or what is
// packed in them, and looks at them mounted: whatever a container could see of a
// change, the agent must refuse.
func TestMountedImageView(t *testing.T) {
	s := erofsStage(t, "imageview")
	small, err := made.Image(t.Context(), "tamper-small", tamper.Small)
	skip.On(t, err)
	s.Image = small
	p := newPacked(t, s, "view")
	v := &viewer{s: s, req: p.req, inside: p.files.Mounted()}
	for _, o := range p.req.GetRootfs()[0].GetOptions() {
		switch key, val, _ := strings.Cut(o, "="); key {
		case "upperdir":
			v.upper = s.Inside(val)
		case "workdir":
			v.work = val
		}
	}
	if err := p.files.Mount(""); err != nil {
		t.Fatal(err)
	}
	v.want = v.view(t)
	p.unmount(t)

	first, count := mutations()
	var refused, none, dead int
	for seed := first; seed < first+count; seed++ {
		r := rand.New(rand.NewPCG(seed, 0xe0f5))
		p.restore(t)
		if seed%2 == 0 {
			p.bind(t)
		}
		did := p.mutate(t, r, seed)
		if err := p.files.Mount(""); err != nil {
			dead++ // the kernel takes it no more, whoever starts it
			continue
		}
		// What is refused is not looked at: the kernel can be made to list a damaged
		// directory without end.
		if p.ask(t).GetRefused() != nil {
			refused++
		} else if differs := v.differs(t); differs != "" {
			t.Errorf("seed %d: %s: let through:\n%s", seed, did, differs)
		} else {
			none++
		}
		p.unmount(t)
	}
	t.Logf("%d refused; %d in which a container could see no difference, let through; %d that the kernel refused", refused, none, dead)
	if count > 100 && (refused < int(count)/4 || none == 0) {
		t.Errorf("the generator changes too little that can be seen, or everything")
	}
}

// mutate changes the content of some layers or the bytes of one file.
func (p *packed) mutate(t *testing.T, r *rand.Rand, seed uint64) (did string) {
	t.Helper()
	if seed%3 == 0 {
		err := p.files.Repack(t.Context(), func(layers []string) error {
			m := tamper.NewMutator(seed, layers, "")
			err := m.Mutate(1 + int(seed%4))
			did = strings.Join(m.Did, "; ")
			return err
		})
		if err != nil {
			return "packed no more: " + err.Error()
		}
		return did
	}
	n := r.IntN(len(p.files.Inside))
	err := p.files.Edit(t.Context(), n, false, func(b []byte) []byte {
		// The superblock is left alone: its checksum would have to be right, and
		// the fixed list has it.
		const first = tamper.Superblock + 128
		space := len(b) - first - 64
		if r.IntN(2) == 0 {
			space = min(space, 8192) // where inodes and names are
		}
		at := first + r.IntN(space)
		was := b[at]
		switch r.IntN(6) {
		case 0:
			did = fmt.Sprintf("zeros at %d of file %d", at, n)
			clear(b[at : at+1+r.IntN(63)])
		case 1:
			from := first + r.IntN(space)
			did = fmt.Sprintf("copy %d to %d of file %d", from, at, n)
			copy(b[at:at+32], b[from:from+32])
		case 2:
			did = fmt.Sprintf("cut file %d at %d", n, at)
			return b[:at]
		case 3:
			did = fmt.Sprintf("append to file %d", n)
			return append(b, b[:at]...)
		default:
			did = fmt.Sprintf("flip a bit at %d of file %d", at, n)
			b[at] ^= 1 << r.IntN(8)
		}
		if b[at] == was { // never nothing
			b[at] ^= 0x10
		}
		return tamper.Seal(b)
	})
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	return did
}
