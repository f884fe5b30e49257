// Command suite runs `go test` with the arguments it is given and sums up what
// happened: the output of what failed, a line a package, and at the end how
// many tests passed, failed and were skipped. A skip that expected.txt does not
// list is a failure.
package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

//go:embed expected.txt
var expectedSkips string

func main() {
	os.Exit(run(os.Args[1:], os.Stdout))
}

func run(args []string, w io.Writer) int {
	rules, err := parseRules(expectedSkips)
	if err != nil {
		fmt.Fprintln(w, "suite:", err)
		return 2
	}
	start := time.Now()
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.Env = tmpdir(os.Environ())
	out, err := cmd.StdoutPipe()
	if err != nil {
		fmt.Fprintln(w, "suite:", err)
		return 2
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(w, "suite:", err)
		return 2
	}
	s := newSummary(w, rules)
	s.read(out)
	failed := cmd.Wait() != nil
	return s.finish(failed, time.Since(start))
}

// event is one line of test2json.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type summary struct {
	w      io.Writer
	rules  []rule
	output map[string][]string

	passed, failed, skipped int
	problems                []string
}

func newSummary(w io.Writer, rules []rule) *summary {
	return &summary{w: w, rules: rules, output: map[string][]string{}}
}

func (s *summary) read(r io.Reader) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(s.w, sc.Text())
			continue
		}
		s.event(e)
	}
}

func (s *summary) event(e event) {
	id := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if e.Action == "build-output" || e.Test == "" && strings.HasPrefix(e.Output, "panic:") {
			fmt.Fprint(s.w, e.Output)
		}
		s.output[id] = append(s.output[id], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.packageEnd(e)
		} else {
			s.testEnd(e, s.output[id])
		}
		delete(s.output, id)
	}
}

func (s *summary) testEnd(e event, output []string) {
	switch e.Action {
	case "pass":
		s.passed++
		for _, line := range output {
			if m := tableLine.FindStringSubmatch(line); m != nil {
				fmt.Fprintf(s.w, "%s: %s\n", e.Test, m[1])
			}
		}
	case "fail":
		s.failed++
		s.problems = append(s.problems, fmt.Sprintf("failed: %s %s", e.Package, e.Test))
		fmt.Fprintf(s.w, "--- %s\n%s", e.Package, strings.Join(output, ""))
	case "skip":
		s.skipped++
		kind, why := skipReason(output)
		expected := slices.ContainsFunc(s.rules, func(r rule) bool { return r.matches(e.Package, e.Test, kind) })
		word := "skipped, as expected"
		if !expected {
			word = "skipped, NOT expected"
			s.problems = append(s.problems, fmt.Sprintf("unexpected skip: %s %s: %s", e.Package, e.Test, why))
		}
		fmt.Fprintf(s.w, "%s: %s %s: %s\n", word, e.Package, e.Test, why)
	}
}

func (s *summary) packageEnd(e event) {
	out := s.output[e.Package+" "]
	switch e.Action {
	case "pass":
		fmt.Fprintf(s.w, "ok    %s %.1fs\n", e.Package, e.Elapsed)
	case "fail":
		fmt.Fprint(s.w, strings.Join(out, ""))
		fmt.Fprintf(s.w, "FAIL  %s %.1fs\n", e.Package, e.Elapsed)
		s.problems = append(s.problems, "failed: "+e.Package)
		// What ran when the package died names the culprit.
		for id, o := range s.output {
			if strings.HasPrefix(id, e.Package+" ") && id != e.Package+" " {
				fmt.Fprintf(s.w, "unfinished: %s\n%s", id, strings.Join(o, ""))
			}
		}
	}
}

func (s *summary) finish(goTestFailed bool, took time.Duration) int {
	for _, p := range s.problems {
		fmt.Fprintln(s.w, p)
	}
	if s.passed+s.failed == 0 {
		s.problems = append(s.problems, "nothing ran")
		fmt.Fprintln(s.w, "nothing ran")
	}
	fmt.Fprintf(s.w, "%d passed, %d failed, %d skipped in %s\n", s.passed, s.failed, s.skipped, took.Round(time.Second))
	if goTestFailed || len(s.problems) > 0 {
		return 1
	}
	return 0
}

// tableLine is what a test that passes has to report: figures, which no test
// judges.
var tableLine = regexp.MustCompile(`^\s+\S+\.go:\d+: table: (.*)`)

var skipLine = regexp.MustCompile(`skip\[([a-z-]+)\]: (.*)`)

// skipReason finds what package skip wrote.
func skipReason(output []string) (kind, why string) {
	all := strings.Join(output, "")
	if m := skipLine.FindStringSubmatch(all); m != nil {
		return m[1], m[0]
	}
	return "", strings.TrimSpace(all)
}

// rule is one line of expected.txt.
type rule struct {
	pkg, test *regexp.Regexp
	kind      string
}

func (r rule) matches(pkg, test, kind string) bool {
	return r.kind == kind && r.pkg.MatchString(pkg) && r.test.MatchString(test)
}

func parseRules(text string) ([]rule, error) {
	var rules []rule
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return nil, fmt.Errorf("expected.txt: %q is not: package test kind", line)
		}
		pkg, err := regexp.Compile("/" + f[0] + "$")
		if err != nil {
			return nil, fmt.Errorf("expected.txt: %w", err)
		}
		test, err := regexp.Compile("^" + f[1] + "$")
		if err != nil {
			return nil, fmt.Errorf("expected.txt: %w", err)
		}
		rules = append(rules, rule{pkg: pkg, test: test, kind: f[2]})
	}
	return rules, nil
}
