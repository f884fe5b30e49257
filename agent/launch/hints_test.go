package launch

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// code is where a finding gets its code.
var code = regexp.MustCompile(`(?:Code: +|\.content\(|\.never\()"([a-z-]+)"(.*)`)

// Whoever is refused is told what to do about it, whatever the finding.
func TestEveryFindingHasAHint(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../measure/chain/*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range append(files, more...) {
		if matched, _ := filepath.Match("*_test.go", filepath.Base(file)); matched {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range code.FindAllSubmatch(text, -1) {
			found++
			// containerd-address has its own at its one place.
			if c := string(m[1]); hints[c] == "" && c != "containerd-address" {
				t.Errorf("%s: no hint for code %s", file, c)
			}
		}
	}
	if found < 50 {
		t.Errorf("%d findings in the source: the search finds nothing", found)
	}
	r := []*nodev1.Reason{{Code: "mount-type"}, {Code: "mount-type", Hint: "better"}}
	hinted(r)
	if r[0].Hint == "" || r[1].Hint != "better" {
		t.Errorf("%v", r)
	}
}
