package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/sealift/sealift/integration/made"
)

// samples of Go's own benchmarks, by name and unit: "Appraise/whole/100", "ns/op".
type samples map[string]map[string][]float64

// goBenchmarks runs benchmarks of a package in turns, so that what is compared is
// measured side by side.
func goBenchmarks(ctx context.Context, pkg, pattern, benchtime string, rounds int) (samples, error) {
	root, err := made.Root()
	if err != nil {
		return nil, err
	}
	out := samples{}
	for range rounds {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", benchtime, pkg)
		cmd.Dir, cmd.Stderr = root, os.Stderr
		b, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go test -bench %s %s: %w\n%s", pattern, pkg, err, b)
		}
		for line := range strings.Lines(string(b)) {
			out.take(line)
		}
	}
	return out, nil
}

// take reads one line: name, count, then pairs of value and unit.
func (s samples) take(line string) {
	f := strings.Fields(line)
	if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
		return
	}
	name := strings.TrimPrefix(f[0], "Benchmark")
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		name = name[:i] // the number of processors
	}
	if s[name] == nil {
		s[name] = map[string][]float64{}
	}
	for i := 2; i+1 < len(f); i += 2 {
		if v, err := strconv.ParseFloat(f[i], 64); err == nil {
			s[name][f[i+1]] = append(s[name][f[i+1]], v)
		}
	}
}

// ms are the times of a benchmark in milliseconds.
func (s samples) ms(name string) []float64 {
	out := make([]float64, len(s[name]["ns/op"]))
	for i, v := range s[name]["ns/op"] {
		out[i] = v / 1e6
	}
	return out
}

// compared makes a row of two series, or says that one of them was not measured.
func compared(name, unit, peerName string, ours, peer []float64) (Row, error) {
	if len(ours) == 0 || len(peer) == 0 {
		return Row{}, fmt.Errorf("%s: %d and %d samples: a benchmark has another name now", name, len(ours), len(peer))
	}
	return ratio(name, unit, peerName, ours, peer), nil
}

// verifyRows are the verdict's times over logs of 100 to 100,000 records: whole,
// and from a checkpoint on.
func verifyRows(ctx context.Context) ([]Row, error) {
	s, err := goBenchmarks(ctx, "./attest/verify", "^BenchmarkAppraise$", "200ms", 3)
	if err != nil {
		return nil, err
	}
	var rows []Row
	for _, n := range []string{"100", "1000", "10000", "100000"} {
		r, err := compared("verify "+n+" events, from a checkpoint", "ms", "the whole log", s.ms("Appraise/incremental/"+n), s.ms("Appraise/whole/"+n))
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	r, err := compared("verify 10 events after 99,990", "ms", "after 90", s.ms("Appraise/incremental/100000"), s.ms("Appraise/incremental/100"))
	return append(rows, r), err
}

// handshakeRows are what a channel costs beside the TLS it is made of, over
// loopback and with software TPMs.
func handshakeRows(ctx context.Context) ([]Row, error) {
	plain, err := goBenchmarks(ctx, "./attest/channel", "^Benchmark(Handshake|TLS)$", "300ms", 5)
	if err != nil {
		return nil, err
	}
	proven, err := goBenchmarks(ctx, "./attest/watch", "^BenchmarkReal(Handshake|Proof)$", "300ms", 5)
	if err != nil {
		return nil, err
	}
	tls, empty := plain["TLS"], plain["Handshake"]
	var rows []Row
	for _, x := range []struct {
		name, unit, peer string
		ours, than       []float64
	}{
		{"handshake, two quotes and verdicts", "ms", "mutual TLS 1.3", proven.ms("RealHandshake"), plain.ms("TLS")},
		{"handshake, without TPMs", "ms", "mutual TLS 1.3", plain.ms("Handshake"), plain.ms("TLS")},
		{"handshake, without evidence", "bytes", "mutual TLS 1.3", empty["wire-bytes/op"], tls["wire-bytes/op"]},
		{"one more proof", "ms", "handshake", proven.ms("RealProof"), proven.ms("RealHandshake")},
		{"one more proof after 3,000 records", "bytes", "the first", proven["RealProof"]["evidence-bytes"], proven["RealProof"]["first-bytes"]},
	} {
		r, err := compared(x.name, x.unit, x.peer, x.ours, x.than)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}
