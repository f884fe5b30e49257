package policy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A small world: few enough values that policies and subjects often meet.
var (
	namespaces = []string{"default", "prod", "k8s.io"}
	digests    = []string{"sha256:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("b", 64), "sealift-tree-v1:" + strings.Repeat("c", 64)}
	signers    = []string{"release", "release/web", "release/db", "ops/web"}
	names      = []string{"docker.io/library/web:1", "docker.io/library/*", "*"}
	keys       = []string{"app", "tier"}
	values     = []string{"x", "y", ""}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func some[T any](r *rand.Rand, make func() T) []T {
	var out []T
	for range r.IntN(3) {
		out = append(out, make())
	}
	return out
}

func randomImage(r *rand.Rand) ImageRule {
	if r.IntN(2) == 0 {
		return ImageRule{Digest: pick(r, digests)}
	}
	return ImageRule{SignedBy: pick(r, signers)}
}

func randomPairs(r *rand.Rand) map[string]string {
	m := map[string]string{}
	for range r.IntN(3) {
		m[pick(r, keys)] = pick(r, values)
	}
	return m
}

// randomPolicy makes any policy that would load.
func randomPolicy(r *rand.Rand, name string) *Policy {
	p := &Policy{Name: name, File: name + ".yaml"}
	p.Match = Match{
		Namespaces: some(r, func() string { return pick(r, namespaces) }),
		Images:     some(r, func() ImageRule { return randomImage(r) }),
	}
	if r.IntN(2) == 0 {
		p.Match.Names = some(r, func() string { return pick(r, names) })
		p.Match.Labels, p.Match.Annotations = randomPairs(r), randomPairs(r)
	}
	s := &p.Spec
	s.Content, s.Level = pick(r, append(modes, "")), pick(r, append(levels, ""))
	s.MinimumBinding, s.RootfsWithoutImage = pick(r, append(bindings, "")), pick(r, append(permissions, ""))
	if !p.Match.mayLoosen() {
		s.Content, s.Level = atLeast(modes, s.Content, defaultContent), atLeast(levels, s.Level, defaultLevel)
		s.MinimumBinding, s.RootfsWithoutImage = atLeast(bindings, s.MinimumBinding, defaultBinding), atLeast(permissions, s.RootfsWithoutImage, defaultRootfs)
	}
	if s.Content == Off {
		s.MinimumBinding = ""
	} else if r.IntN(3) == 0 {
		s.Images = &ImageList{Allow: some(r, func() ImageRule { return randomImage(r) })}
	}
	if s.Level == Restricted {
		s.Mounts = some(r, func() MountRule {
			return MountRule{Destination: pick(r, []string{"/etc/hosts", "/etc/*", "/**"}), Source: pick(r, []string{"", "/var/lib/**"}), ReadOnly: r.IntN(2) == 0}
		})
		s.Hooks = some(r, func() HookRule {
			h := HookRule{Path: pick(r, []string{"/bin/hook", "/bin/other"}), Stages: some(r, func() string { return pick(r, hookStages) })}
			if r.IntN(2) == 0 {
				h.Args = some(r, func() string { return pick(r, []string{"a", "", "\x7f\u2028\U0001f6a2\""}) })
			}
			return h
		})
	}
	return p
}

func atLeast[W ~string](scale []W, w, floor W) W {
	if w == "" {
		return w
	}
	return stricter(scale, w, floor)
}

func randomSubject(r *rand.Rand) Subject {
	s := Subject{Namespace: pick(r, namespaces), Image: names[0], Labels: randomPairs(r), Annotations: randomPairs(r)}
	if r.IntN(4) == 0 {
		s.Image, s.TreeDigest = "", digests[2]
	} else {
		s.ManifestDigest = pick(r, digests[:2])
	}
	s.SignedBy = some(r, func() string { return pick(r, signers[1:]) })
	return s
}

// subjectOf makes a subject that p selects, where there is one.
func subjectOf(p *Policy) Subject {
	s := Subject{Labels: p.Match.Labels, Annotations: p.Match.Annotations}
	if len(p.Match.Namespaces) > 0 {
		s.Namespace = p.Match.Namespaces[0]
	}
	if len(p.Match.Images) > 0 {
		s.ManifestDigest = p.Match.Images[0].Digest
		if by := p.Match.Images[0].SignedBy; by != "" {
			s.SignedBy = []string{by}
		}
	}
	if len(p.Match.Names) > 0 {
		s.Image = p.Match.Names[0]
	}
	return s
}

// looserThan names the first thing that a lets through and b does not.
func looserThan(a, b Effective) string {
	switch {
	case looser(modes, a.Content, b.Content):
		return fmt.Sprintf("content %s < %s", a.Content, b.Content)
	case looser(levels, a.Level, b.Level):
		return fmt.Sprintf("level %s < %s", a.Level, b.Level)
	case looser(permissions, a.RootfsWithoutImage, b.RootfsWithoutImage):
		return "rootfsWithoutImage"
	}
	for _, class := range a.AcceptBinding {
		if b.CheckBinding(class) != nil {
			return "binding " + class
		}
	}
	for _, d := range digests {
		for _, by := range append(signers, "") {
			s := Subject{ManifestDigest: d}
			if by != "" {
				s.SignedBy = []string{by}
			}
			if a.CheckImage(s) == nil && b.CheckImage(s) != nil {
				return fmt.Sprintf("image %s by %q", d, by)
			}
		}
	}
	for _, m := range []BindMount{{"/etc/hosts", "/var/lib/x", true}, {"/etc/hosts", "/tmp/x", false}, {"/usr/bin/x", "/var/lib/x", false}} {
		if a.CheckMount(m) == nil && b.CheckMount(m) != nil {
			return "mount " + m.Destination
		}
	}
	for _, h := range []Hook{{Stage: "prestart", Path: "/bin/hook"}, {Stage: "poststop", Path: "/bin/hook", Args: []string{"a"}}, {Stage: "prestart", Path: "/bin/other", Args: []string{"a", "a"}}} {
		if a.CheckHook(h) == nil && b.CheckHook(h) != nil {
			return "hook " + h.Path
		}
	}
	return ""
}

func randomSet(t *testing.T, r *rand.Rand) []*Policy {
	t.Helper()
	var out []*Policy
	for i := range r.IntN(6) {
		out = append(out, randomPolicy(r, fmt.Sprintf("p%d", i)))
	}
	return out
}

func mustSet(t testing.TB, policies ...*Policy) *Set {
	t.Helper()
	s, err := NewSet(policies...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const rounds = 4000

// Adding a policy that does not select by namespace and digest alone never
// lets anything more through.
func TestAddingNeverLoosens(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	matched := 0
	for range rounds {
		policies := randomSet(t, r)
		added := randomPolicy(r, "added")
		if added.Match.mayLoosen() {
			continue
		}
		subj := randomSubject(r)
		before := mustSet(t, policies...).Evaluate(subj)
		after := mustSet(t, append(policies, added)...).Evaluate(subj)
		if what := looserThan(after, before); what != "" {
			t.Fatalf("adding %+v to\n%s\nloosened %s", added, strings.Join(after.Steps, "\n"), what)
		}
		if slices.Contains(after.Sources, "added") {
			matched++
		}
	}
	if matched < rounds/20 {
		t.Errorf("only %d rounds had a match: the test proves little", matched)
	}
}

// Labels, annotations and a name can be added to a launch without gaining
// anything.
func TestTenantsGainNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range rounds {
		set := mustSet(t, randomSet(t, r)...)
		bare := randomSubject(r)
		bare.Labels, bare.Annotations, bare.Image = nil, nil, ""
		dressed := bare
		dressed.Labels, dressed.Annotations, dressed.Image = randomPairs(r), randomPairs(r), names[0]
		if what := looserThan(set.Evaluate(dressed), set.Evaluate(bare)); what != "" {
			t.Fatalf("labels loosened %s:\n%s", what, strings.Join(set.Evaluate(dressed).Steps, "\n"))
		}
	}
}

// Without a policy that may loosen, nothing is ever below the default.
func TestDefaultIsAFloor(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range rounds {
		policies := slices.DeleteFunc(randomSet(t, r), func(p *Policy) bool { return p.Match.mayLoosen() })
		if what := looserThan(mustSet(t, policies...).Evaluate(randomSubject(r)), Default()); what != "" {
			t.Fatalf("below the default: %s", what)
		}
	}
}

// Neither the order of policies nor that of the entries in their lists shows.
func TestOrderDoesNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range rounds {
		policies := randomSet(t, r)
		subj := randomSubject(r)
		want := mustSet(t, policies...).Evaluate(subj)
		shuffled := slices.Clone(policies)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for i, p := range shuffled {
			q := *p
			q.Spec.Mounts, q.Spec.Hooks = slices.Clone(p.Spec.Mounts), slices.Clone(p.Spec.Hooks)
			slices.Reverse(q.Spec.Mounts)
			slices.Reverse(q.Spec.Hooks)
			shuffled[i] = &q
		}
		got := mustSet(t, shuffled...).Evaluate(subj)
		if !bytes.Equal(got.Canonical(), want.Canonical()) || !slices.Equal(got.Sources, want.Sources) || !slices.Equal(got.Steps, want.Steps) {
			t.Fatalf("got\n%s\nwant\n%s", got.Canonical(), want.Canonical())
		}
	}
}

// Every effective policy reads back from its canonical bytes as itself.
func TestCanonicalRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	seen := map[string]Effective{}
	for range rounds {
		e := mustSet(t, randomSet(t, r)...).Evaluate(randomSubject(r))
		got, err := ParseCanonical(e.Canonical())
		if err != nil {
			t.Fatalf("%v\n%s", err, e.Canonical())
		}
		e.Sources, e.Steps = nil, nil
		if !reflect.DeepEqual(got, e) {
			t.Fatalf("got\n%+v\nwant\n%+v", got, e)
		}
		if other, ok := seen[e.Digest()]; ok && !reflect.DeepEqual(other, e) {
			t.Fatalf("one digest for\n%+v\nand\n%+v", other, e)
		}
		seen[e.Digest()] = e
	}
}

func TestCanonicalRefusesOtherSpellings(t *testing.T) {
	good := string(Default().Canonical())
	for _, bad := range []string{
		good + "\n", "# c\n" + good, strings.Replace(good, "enforce", `"enforce"`, 1), strings.Replace(good, "kind: E", "kind: e", 1),
		strings.Replace(good, "images: []", "images: []\nimages: []", 1), strings.Replace(good, "level", "Level", 1), "",
	} {
		if _, err := ParseCanonical([]byte(bad)); err == nil {
			t.Errorf("accepted:\n%s", bad)
		}
	}
}
