package ca

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What cannot be a CA leaves nothing behind, and the way back is free.
func TestInitMistakes(t *testing.T) {
	for name, o := range map[string]Options{
		"certificates that never were": {Name: "x", Config: Config{Certificate: Duration(-time.Hour)}},
		"lists that never were":        {Name: "x", Config: Config{Revocation: -1}},
		"a CA of yesterday":            {Name: "x", Lifetime: -time.Hour},
		"a name over two lines":        {Name: "x\ncertifies    owner"},
		"a name that turns around":     {Name: "x\u202egnp.exe"},
		"a name of no characters":      {Name: "\xff\xfe"},
		"a name of spaces":             {Name: " "},
		"a name that does not end":     {Name: strings.Repeat("x", 65)},
	} {
		dir := filepath.Join(t.TempDir(), "ca")
		if _, err := Init(dir, o); err == nil {
			t.Errorf("%s: made", name)
		}
		if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
		if _, err := Init(dir, Options{Name: strings.Repeat("é", 32)}); err != nil {
			t.Errorf("%s: and then: %v", name, err)
		}
	}
}

// Who stands in a directory that is replaced stands nowhere.
func TestInitWhereOneStands(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := Init("./", Options{Name: "x"}); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("%v", err)
	}
	if _, err := Init("ca", Options{Name: "x"}); err != nil {
		t.Error(err)
	}
}
