package policy

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func parsed(t *testing.T, name, spec string) *Policy {
	t.Helper()
	p, err := Parse(name+".yaml", []byte("apiVersion: sealift.dev/v1\nkind: WorkloadPolicy\nmetadata: {name: "+name+"}\nspec:\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The sanctioned ways down: a namespace, alone or with a digest, and only there.
func TestLoosening(t *testing.T) {
	set := mustSet(t, parsed(t, "lab", "  match: {namespaces: [lab], images: [{digest: \""+digestA+"\"}]}\n  content: audit\n  level: privileged\n"))
	for _, c := range []struct {
		subj Subject
		want Mode
	}{
		{Subject{Namespace: "lab", ManifestDigest: digestA}, Audit},
		{Subject{Namespace: "lab", ManifestDigest: "sha256:other", IndexDigest: digestA}, Audit},
		{Subject{Namespace: "prod", ManifestDigest: digestA}, Enforce},
		{Subject{Namespace: "lab", ManifestDigest: "sha256:other"}, Enforce},
		{Subject{Namespace: "lab", Image: digestA}, Enforce},
		{Subject{Namespace: "lab"}, Enforce},
	} {
		if got := set.Evaluate(c.subj).Content; got != c.want {
			t.Errorf("%+v: %s, want %s", c.subj, got, c.want)
		}
	}
	dev := mustSet(t, parsed(t, "dev", "  match: {namespaces: [dev]}\n  content: off\n"))
	if got := dev.Evaluate(Subject{Namespace: "dev"}).Content; got != Off {
		t.Errorf("namespace alone: %s", got)
	}
	if got := dev.Evaluate(Subject{Namespace: "prod"}).Content; got != Enforce {
		t.Errorf("another namespace: %s", got)
	}
}

// A loosened image is tightened again by whatever else matches, and a list of
// images cannot be silenced by another policy's audit.
func TestStrictestWins(t *testing.T) {
	lab := parsed(t, "lab", "  match: {namespaces: [lab], images: [{digest: \""+digestA+"\"}]}\n  content: audit\n")
	subj := Subject{Namespace: "lab", ManifestDigest: digestA, Labels: map[string]string{"tier": "gold"}}
	if got := mustSet(t, lab, parsed(t, "gold", "  match: {labels: {tier: gold}}\n  content: enforce\n")).Evaluate(subj); got.Content != Enforce {
		t.Errorf("content %s", got.Content)
	}
	listed := mustSet(t, lab, parsed(t, "list", "  match: {}\n  images: {allow: [{signedBy: release}]}\n")).Evaluate(subj)
	if listed.Content != Enforce {
		t.Errorf("content %s: the list is not held", listed.Content)
	}
	var refused *RefusedError
	if err := listed.CheckImage(subj); !errors.As(err, &refused) || refused.Policy != "list" || refused.Hint == "" {
		t.Errorf("image: %v", err)
	}
	subj.SignedBy = []string{"release/web"}
	if err := listed.CheckImage(subj); err != nil {
		t.Errorf("signed image: %v", err)
	}
}

// Two lists are both held; an empty one allows nothing.
func TestImageLists(t *testing.T) {
	a := parsed(t, "a", "  match: {}\n  images: {allow: [{signedBy: release}, {digest: \""+digestA+"\"}]}\n")
	b := parsed(t, "b", "  match: {}\n  images: {allow: [{signedBy: release/web}]}\n")
	none := parsed(t, "none", "  match: {namespaces: [x]}\n  images: {allow: []}\n")
	e := mustSet(t, a, b, none).Evaluate(Subject{})
	for by, ok := range map[string]bool{"release/web": true, "release/db": false, "release/we": false, "releas/web": false, "": false} {
		if err := e.CheckImage(Subject{ManifestDigest: digestA, SignedBy: []string{by}}); (err == nil) != ok {
			t.Errorf("%q: %v", by, err)
		}
	}
	subj := Subject{Namespace: "x", SignedBy: []string{"release/web"}}
	if err := mustSet(t, none).Evaluate(subj).CheckImage(subj); err == nil {
		t.Error("an empty list allowed an image")
	}
	if err := e.CheckImage(Subject{}); err == nil {
		t.Error("a launch without identity was allowed")
	}
}

func TestRestricted(t *testing.T) {
	cri := parsed(t, "cri", `  match: {namespaces: [k8s.io]}
  level: restricted
  mounts:
    allow:
    - {destination: /etc/hosts, source: /var/lib/kubelet/pods/*/etc-hosts}
    - {destination: /etc/resolv.conf, readOnly: true}
  hooks:
    allow:
    - {path: /usr/bin/hook, stages: [prestart], args: [hook, -x]}
`)
	e := mustSet(t, cri).Evaluate(Subject{Namespace: "k8s.io"})
	for _, c := range []struct {
		m  BindMount
		ok bool
	}{
		{BindMount{"/etc/hosts", "/var/lib/kubelet/pods/1/etc-hosts", false}, true},
		{BindMount{"/etc/hosts", "/var/lib/kubelet/pods/1/2/etc-hosts", false}, false},
		{BindMount{"/etc/hosts", "/var/lib/kubelet/pods/../etc-hosts", false}, false},
		{BindMount{"/etc//hosts", "/var/lib/kubelet/pods/1/etc-hosts", false}, false},
		{BindMount{"/etc/resolv.conf", "/anything", false}, false},
		{BindMount{"/etc/resolv.conf", "/anything", true}, true},
		{BindMount{"/usr/bin/sh", "/var/lib/kubelet/pods/1/etc-hosts", true}, false},
	} {
		if err := e.CheckMount(c.m); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.m, err)
		}
	}
	for _, c := range []struct {
		h  Hook
		ok bool
	}{
		{Hook{Stage: "prestart", Path: "/usr/bin/hook", Args: []string{"hook", "-x"}}, true},
		{Hook{Stage: "poststop", Path: "/usr/bin/hook", Args: []string{"hook", "-x"}}, false},
		{Hook{Stage: "prestart", Path: "/usr/bin/hook", Args: []string{"hook", "-x", "-y"}}, false},
		{Hook{Stage: "prestart", Path: "/usr/bin/hook"}, false},
	} {
		if err := e.CheckHook(c.h); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.h, err)
		}
	}
	// A second restricted policy without lists takes everything away again.
	both := mustSet(t, cri, parsed(t, "bare", "  match: {}\n  level: restricted\n")).Evaluate(Subject{Namespace: "k8s.io"})
	if err := both.CheckMount(BindMount{"/etc/resolv.conf", "/anything", true}); err == nil {
		t.Error("one policy's list widened another's")
	}
	if err := Default().CheckMount(BindMount{"/usr/bin/sh", "/tmp/x", false}); err != nil {
		t.Errorf("the default refuses a bind: %v", err)
	}
}

func TestRootfsWithoutImage(t *testing.T) {
	tree := "sealift-tree-v1:" + strings.Repeat("c", 64)
	set := mustSet(t, parsed(t, "tree", "  match: {namespaces: [lab], images: [{digest: \""+tree+"\"}]}\n  rootfsWithoutImage: allow\n"))
	if err := set.Evaluate(Subject{Namespace: "lab", TreeDigest: tree}).CheckRootfs(); err != nil {
		t.Error(err)
	}
	for _, subj := range []Subject{{Namespace: "lab"}, {Namespace: "prod", TreeDigest: tree}, {Namespace: "lab", TreeDigest: "sealift-tree-v1:d"}} {
		if err := set.Evaluate(subj).CheckRootfs(); err == nil {
			t.Errorf("%+v was allowed", subj)
		}
	}
}

func TestBinding(t *testing.T) {
	for _, c := range []struct {
		e    Effective
		want []string
	}{
		{Default(), []string{"verity", "blob", "tree"}},
		{mustSet(t, parsed(t, "b", "  match: {}\n  minimumBinding: blob\n")).Evaluate(Subject{}), []string{"verity", "blob"}},
	} {
		if !slices.Equal(c.e.AcceptBinding, c.want) {
			t.Errorf("%v, want %v", c.e.AcceptBinding, c.want)
		}
		if c.e.CheckBinding("none") == nil || c.e.CheckBinding("") == nil || c.e.CheckBinding("verity") != nil {
			t.Error("wrong class accepted or refused")
		}
	}
}

// Steps name the file, the policy and the reason for each policy of the set.
func TestSteps(t *testing.T) {
	set := mustSet(t,
		parsed(t, "a", "  match: {namespaces: [prod]}\n  level: restricted\n"),
		parsed(t, "b", "  match: {labels: {app: web}}\n  minimumBinding: blob\n"))
	got := strings.Join(set.Evaluate(Subject{Namespace: "dev", Labels: map[string]string{"app": "web"}}).Steps, "\n")
	want := `a.yaml: policy a does not match: namespace "dev" is not prod
b.yaml: policy b matches because: label app=web
  content: enforce, because it speaks of images or binding
  minimumBinding: blob
default: level: baseline, rootfsWithoutImage: refuse`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/a", "/a", true}, {"/a", "/b", false}, {"/", "/", true}, {"/*", "/", false}, {"/*", "/a", true}, {"/*", "/a/b", false},
		{"/**", "/a/b", true}, {"/a/**", "/a", true}, {"/a/**", "/ab", false}, {"/a/**/z", "/a/b/c/z", true}, {"/a/**/z", "/a/z", true},
		{"/a/*.conf", "/a/x.conf", true}, {"/a/*.conf", "/a/x.conf.d", false}, {"/a/*b*", "/a/xbbx", true}, {"/a*", "a", false},
		{"/a/**", "/a/../b", false}, {"/a/**", "/a/", false}, {"/a/*", "/a/..", false}, {"/aa*a", "/aa", false}, {"/aa*a", "/aaa", true},
	} {
		if got := matchPath(c.pattern, c.path); got != c.want {
			t.Errorf("%s against %s: %t", c.pattern, c.path, got)
		}
	}
	// Many stars cost no more than pattern × path.
	if matchPath("/"+strings.Repeat("**/", 500)+"x", "/"+strings.Repeat("a/", 500)+"y") {
		t.Error("matched")
	}
}
