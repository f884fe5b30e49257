package main

import (
	"strings"
	"testing"
	"time"
)

const stream = `
{"Action":"run","Package":"m/a","Test":"TestGood"}
{"Action":"pass","Package":"m/a","Test":"TestGood"}
{"Action":"output","Package":"m/a","Test":"TestSkipped","Output":"    x.go:1: skip[unsupported]: no such thing here\n"}
{"Action":"skip","Package":"m/a","Test":"TestSkipped"}
{"Action":"pass","Package":"m/a"}
`

func sum(t *testing.T, stream, rules string) (int, string) {
	t.Helper()
	var w strings.Builder
	parsed, err := parseRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	s := newSummary(&w, parsed)
	s.read(strings.NewReader(strings.TrimSpace(stream)))
	return s.finish(false, time.Second), w.String()
}

func TestSkips(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		want        int
	}{
		{"expected", "a TestSkipped unsupported # why", 0},
		{"not listed", "", 1},
		{"for another reason", "a TestSkipped permission", 1},
		{"another test", "a TestOther unsupported", 1},
	} {
		code, out := sum(t, stream, c.rules)
		if code != c.want {
			t.Errorf("%s: exit %d, want %d\n%s", c.name, code, c.want, out)
		}
		if !strings.Contains(out, "1 passed, 0 failed, 1 skipped") {
			t.Errorf("%s: summary missing:\n%s", c.name, out)
		}
	}
}

func TestFailuresAreShown(t *testing.T) {
	code, out := sum(t, stream+`{"Action":"output","Package":"m/b","Test":"TestBad","Output":"wanted 1\n"}
{"Action":"fail","Package":"m/b","Test":"TestBad"}
{"Action":"fail","Package":"m/b"}`, "a TestSkipped unsupported")
	if code != 1 || !strings.Contains(out, "wanted 1") || !strings.Contains(out, "1 passed, 1 failed, 1 skipped") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// Of tests that pass, only what they have to report is shown.
func TestTablesAreShown(t *testing.T) {
	_, out := sum(t, `{"Action":"output","Package":"m/b","Test":"TestFigures","Output":"    x.go:9: a step\n"}
{"Action":"output","Package":"m/b","Test":"TestFigures","Output":"    x.go:10: table:   12 ms\n"}
{"Action":"pass","Package":"m/b","Test":"TestFigures"}
{"Action":"pass","Package":"m/b"}`, "")
	if !strings.Contains(out, "TestFigures:   12 ms\n") || strings.Contains(out, "a step") {
		t.Errorf("shown:\n%s", out)
	}
}

func TestNothingRan(t *testing.T) {
	if code, _ := sum(t, "", ""); code != 1 {
		t.Errorf("a run without tests: exit %d", code)
	}
}
