package chain

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
)

// The kernel gets the options as one text and parts it at commas, so that one
// option must never be two.
func TestParseRefusesOptionsWithinOptions(t *testing.T) {
	base := []string{"workdir=/s/4/work", "upperdir=/s/4/fs", "lowerdir=/s/1/fs"}
	for name, options := range map[string][]string{
		"in the upper":           {"workdir=/s/4/work", "lowerdir=/s/1/fs", "upperdir=/s/4/fs,lowerdir=/evil"},
		"in the work directory":  {"upperdir=/s/4/fs", "lowerdir=/s/1/fs", "workdir=/s/4/work,lowerdir=/evil"},
		"in a lower":             {"workdir=/s/4/work", "upperdir=/s/4/fs", "lowerdir=/s/1/fs,upperdir=/evil"},
		"in a label":             append(base, "context=x,lowerdir=/evil"),
		"in a label's quotes":    append(base, `context="x,lowerdir=/evil"`),
		"after a label's quotes": append(base, `context="x",lowerdir=/evil`),
		"a comma taken away":     {"lowerdir=/s/1/fs", `upperdir=/s/4/fs\`, "workdir=/s/4/work"},
	} {
		var p *Problem
		if _, err := Parse(overlay(options...)); !errors.As(err, &p) || p.Code != "mount-option" || p.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, label := range []string{`context="system_u:object_r:container_file_t:s0:c1,c2"`, "context=system_u:object_r:container_file_t:s0"} {
		if _, err := Parse(overlay(append(base, label)...)); err != nil {
			t.Errorf("%s: %v", label, err)
		}
	}
}

// What a reader that looks at each option by itself takes for an empty upper
// over an honest layer is, mounted, another layer.
func TestOptionsWithinOptionsAreMounted(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	top := t.TempDir()
	if err := unix.Mount("tmpfs", top, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(top, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	at := func(name string) string { return filepath.Join(top, name) }
	evil := at("evil")
	upper := at("u") + ",lowerdir=" + evil // a directory, by its name
	for _, dir := range []string{at("honest"), evil, at("u"), upper, at("w"), at("m")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []string{"honest", "evil"} {
		if err := os.WriteFile(filepath.Join(at(l), "who"), []byte(l), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	options := []string{"lowerdir=" + at("honest"), "upperdir=" + upper, "workdir=" + at("w"), "index=off"}
	if r, err := ExamineRoot(upper, Owner{}); err != nil || !r.Empty {
		t.Fatalf("the naive reader's upper: %+v, %v", r, err)
	}
	if err := unix.Mount("overlay", at("m"), "overlay", 0, strings.Join(options, ",")); err != nil {
		t.Fatal(err)
	}
	who, err := os.ReadFile(at("m/who"))
	if err := errors.Join(err, unix.Unmount(at("m"), 0)); err != nil {
		t.Fatal(err)
	}
	if string(who) != "evil" {
		t.Errorf("the attack shows %q: this kernel reads the options another way", who)
	}
	if _, err := Parse(overlay(options...)); err == nil {
		t.Error("the options were accepted")
	}
}

func TestTheLastOfReadOnlyAndWritableHolds(t *testing.T) {
	for _, tc := range []struct {
		options  []string
		readOnly bool
	}{{[]string{"ro", "rw"}, false}, {[]string{"rw", "ro"}, true}} {
		c, err := Parse(overlay(append([]string{"workdir=/s/4/work", "upperdir=/s/4/fs", "lowerdir=/s/1/fs"}, tc.options...)...))
		if err != nil || c.ReadOnly != tc.readOnly {
			t.Errorf("%v: %+v, %v", tc.options, c, err)
		}
	}
}
