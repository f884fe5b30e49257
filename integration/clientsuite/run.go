package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

// verdict is how one test ended.
type verdict string

const (
	passed  verdict = "pass"
	failed  verdict = "FAIL"
	skipped verdict = "skip"
	hung    verdict = "HANG"
)

// patience bounds one test; the longest writes 700 MB through terminals.
const patience = 6 * time.Minute

// result is a test's end with one runtime.
type result struct {
	verdict
	took   time.Duration
	output string
}

// run compares the runtimes and says whether ours passes all that the stock one
// passes. It shows why ours failed; with verbose, why the stock one did too.
func run(ctx context.Context, w io.Writer, only, ours string, verbose bool) (bool, error) {
	filter, err := regexp.Compile(only)
	if err != nil {
		return false, err
	}
	benches := []*bench{{runtime: node.Stock}, {runtime: ours}}
	for _, b := range benches {
		if err := b.open(ctx); err != nil {
			return false, errors.Join(err, closeAll(benches))
		}
	}
	tests, err := benches[0].list(ctx, filter)
	if err != nil {
		return false, errors.Join(err, closeAll(benches))
	}
	fmt.Fprintf(w, "%-45s %12s %12s\n", "TEST", "stock", "sealift")
	ok, sums := true, [2]map[verdict]int{{}, {}}
	for _, test := range tests {
		var results [2]result
		var wg sync.WaitGroup
		for i, b := range benches {
			wg.Go(func() { results[i] = b.test(ctx, test) })
		}
		wg.Wait()
		if ctx.Err() != nil {
			return false, errors.Join(ctx.Err(), closeAll(benches))
		}
		for i, r := range results {
			sums[i][r.verdict]++
		}
		worse := results[0].verdict == passed && results[1].verdict != passed
		fmt.Fprintf(w, "%-45s %12s %12s%s\n", test, show(results[0]), show(results[1]), map[bool]string{true: "  worse"}[worse])
		if worse {
			ok = false
			fmt.Fprintln(w, indent(results[1].output))
		} else if verbose && results[0].verdict != passed {
			fmt.Fprintln(w, indent(results[0].output))
		}
	}
	for name, why := range unfit {
		fmt.Fprintf(w, "%-45s not run: %s\n", name, why)
	}
	for i, b := range benches {
		fmt.Fprintf(w, "%s: %d passed, %d failed, %d skipped, %d hung\n", b.runtime,
			sums[i][passed], sums[i][failed], sums[i][skipped], sums[i][hung])
	}
	if sums[0][passed] == 0 {
		err = errors.New("the stock shim passes nothing: this run says nothing")
	}
	return ok, errors.Join(err, closeAll(benches))
}

func show(r result) string { return fmt.Sprintf("%s %5.1fs", r.verdict, r.took.Seconds()) }

// telling are the lines of a failed test that say why.
var telling = regexp.MustCompile(`(_test\.go:\d+: |^\s*--- FAIL|^panic:|hint: |layer |rootfs |level=(error|fatal))`)

func indent(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if telling.MatchString(line) {
			lines = append(lines, "    "+strings.TrimSpace(line))
		}
	}
	return strings.Join(lines[:min(len(lines), 30)], "\n")
}

// bench is a node on which one runtime is tried.
type bench struct {
	runtime string
	*node.Node
}

func closeAll(benches []*bench) error {
	var errs []error
	for _, b := range benches {
		if b.Node != nil {
			errs = append(errs, b.Close())
		}
	}
	return errors.Join(errs...)
}

// The suite's own daemon, and its images.
const (
	suiteSocket = "/run/containerd-test/containerd.sock"
	agentConfig = `[containerd]
addresses = ["/run/containerd/containerd.sock", "` + suiteSocket + `"]
`
	imageList = `Alpine = "localhost:5055/suite:1"
BusyBox = "localhost:5055/suite:1"
BusyBoxByDigest = "localhost:5055/suite@%[1]s"
Pause = "localhost:5055/suite:1"
VolumeCopyUp = "localhost:5055/copy-up:1"
VolumeOwnership = "localhost:5055/ownership:1"
`
)

func (b *bench) open(ctx context.Context) error {
	rootfs, err := made.Rootfs(ctx)
	if err != nil {
		return err
	}
	suite, err := made.ClientSuite(ctx)
	if err != nil {
		return err
	}
	img, err := made.Image(ctx, "suite", image.Suite(rootfs))
	if err != nil {
		return err
	}
	o := node.Options{Name: "clientsuite", Config: agentConfig, Bare: b.runtime == node.Stock}
	for _, f := range []string{"client.test", "runc-fp"} {
		o.Binds = append(o.Binds, host.Bind{Source: filepath.Join(suite, f), Target: "/usr/local/bin/" + f})
	}
	if b.Node, err = node.New(ctx, o); err != nil {
		return err
	}
	if _, err := b.Registry(ctx, img, "suite", "copy-up", "ownership"); err != nil {
		return err
	}
	return b.WriteFile(ctx, "/srv/images.toml", fmt.Appendf(nil, imageList, img.Manifest), 0o644)
}

func (b *bench) list(ctx context.Context, filter *regexp.Regexp) ([]string, error) {
	out, err := b.RunCmd(ctx, host.Cmd{Args: []string{"client.test", "-test.short", "-test.list", "."}, Env: []string{"IMAGE_LIST=/srv/images.toml"}, Dir: "/tmp"})
	if err != nil {
		return nil, err
	}
	var tests []string
	for _, t := range strings.Fields(out) {
		if relevant.MatchString(t) && filter.MatchString(t) && unfit[t] == "" {
			tests = append(tests, t)
		}
	}
	if len(tests) == 0 {
		return nil, errors.New("the suite has no such test")
	}
	return tests, nil
}

// end finds how a test ended in the output of go test -v.
var end = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): `)

func (b *bench) test(ctx context.Context, name string) result {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	out, err := b.RunCmd(ctx, host.Cmd{
		Args: []string{"client.test", "-test.root", "-test.v", "-test.run", "^" + name + "$"},
		Env:  []string{"TEST_RUNTIME=" + b.runtime, "IMAGE_LIST=/srv/images.toml"}, Dir: "/tmp",
	})
	r := result{verdict: failed, took: time.Since(began), output: out}
	var exit *host.ExitError
	switch m := end.FindStringSubmatch(out); {
	case ctx.Err() != nil:
		r.verdict = hung
		b.sweep(context.WithoutCancel(ctx))
	case errors.As(err, &exit):
		r.output = exit.Output()
		b.sweep(ctx)
	case err != nil:
		r.output = err.Error()
	case m != nil && m[1] == "PASS":
		r.verdict = passed
	case m != nil && m[1] == "SKIP":
		r.verdict = skipped
	}
	return r
}

// sweep ends what a failed test left running, so that the next one is judged by
// itself. Daemon and shims belong to this host alone.
func (b *bench) sweep(ctx context.Context) {
	script := `pkill -KILL -f '^containerd .*containerd-test' || true
pkill -KILL -f '^/[^ ]*containerd-shim.*containerd-test' || true
sleep 0.2
grep -o ' /run/containerd-test[^ ]*' /proc/mounts | xargs -r umount -l || true`
	if _, err := b.Shell(ctx, script); err != nil {
		fmt.Println("sweep:", err)
	}
}
