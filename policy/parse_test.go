package policy

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files")

const head = "apiVersion: sealift.dev/v1\nkind: WorkloadPolicy\nmetadata: {name: p}\n"

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatalf("parse:\n%s\n%v", text, err)
	}
	return p
}

// Every testdata/bad/*.yaml is refused, with the errors in the .txt beside it.
func TestParseRefuses(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Parse(filepath.Base(file), data)
			if err == nil {
				t.Fatalf("accepted: %+v", p)
			}
			var es Errors
			if !errors.As(err, &es) || len(es) == 0 {
				t.Fatalf("not an Errors: %v", err)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err2 := os.ReadFile(golden)
			if err2 != nil {
				t.Fatal(err2)
			}
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestParseReadsEverything(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, string(data))
	if p.Name != "payments" || p.Spec.Level != Restricted || p.Spec.Content != Enforce || p.Spec.MinimumBinding != BindingBlob ||
		p.Spec.RootfsWithoutImage != Refuse {
		t.Errorf("words: %+v", p)
	}
	if len(p.Match.Namespaces) != 2 || len(p.Match.Images) != 1 || p.Match.Names[0] != "registry.example/pay/*" ||
		p.Match.Labels["tier"] != "gold" || p.Match.Annotations["example.com/audited"] != "*" {
		t.Errorf("match: %+v", p.Match)
	}
	if len(p.Spec.Images.Allow) != 2 || len(p.Spec.Mounts) != 2 || !p.Spec.Mounts[1].ReadOnly || len(p.Spec.Hooks) != 1 ||
		len(p.Spec.Hooks[0].Args) != 2 || p.Spec.Hooks[0].Stages[0] != "createRuntime" {
		t.Errorf("lists: %+v", p.Spec)
	}
}

// What looks like a boolean to YAML 1.1 is the word it is written as.
func TestOffIsAWord(t *testing.T) {
	p := mustParse(t, head+`spec:
  match: {namespaces: [a], images: [{digest: "sha256:`+strings.Repeat("0", 64)+`"}]}
  content: off
`)
	if p.Spec.Content != Off {
		t.Errorf("content %q", p.Spec.Content)
	}
}

func TestParseBounds(t *testing.T) {
	long := head + "spec:\n  match: {}\n  level: baseline\n# " + strings.Repeat("x", MaxFile)
	if _, err := Parse("p.yaml", []byte(long)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("huge file: %v", err)
	}
	deep := head + "spec: " + strings.Repeat("[", 20000)
	if _, err := Parse("p.yaml", []byte(deep)); err == nil {
		t.Error("deep nesting was accepted")
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/full.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("f.yaml", data)
		if err != nil {
			if AsErrors(err) == nil {
				t.Fatalf("an error without a place: %v", err)
			}
			return
		}
		// Whatever is accepted keeps the first rule of the language.
		s, err := NewSet(p)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Match.mayLoosen() {
			if d := looserThan(s.Evaluate(subjectOf(p)), Default()); d != "" {
				t.Fatalf("loosens %s", d)
			}
		}
		c := s.Evaluate(subjectOf(p)).Canonical()
		if _, err := ParseCanonical(c); err != nil {
			t.Fatalf("canonical form:\n%s\n%v", c, err)
		}
	})
}
