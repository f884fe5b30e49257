package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/measure/layer"
)

func TestMeaningless(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		entries      []entry
	}{
		{"dot dot", layer.ReasonName, []entry{file("../f", "")}},
		{"long name", layer.ReasonName, []entry{file(strings.Repeat("n", 256), "")}},
		{"long path", layer.ReasonName, []entry{file(strings.Repeat("n/", 2100)+"f", "")}},
		{"file as parent", layer.ReasonParent, []entry{file("f", ""), file("f/g", "")}},
		{"whiteout as parent", layer.ReasonParent, []entry{file(".wh.f", ""), file("f/g", "")}},
		{"file then whiteout", layer.ReasonWhiteout, []entry{file("f", ""), file(".wh.f", "")}},
		{"whiteout twice", layer.ReasonWhiteout, []entry{file(".wh.f", ""), file(".wh.f", "")}},
		{"whiteout of nothing", layer.ReasonWhiteout, []entry{file(".wh.", "")}},
		{"whiteout of the parent", layer.ReasonWhiteout, []entry{file("d/.wh...", "")}},
		{"contiguous file", layer.ReasonType, []entry{{typ: '7', name: "f"}}},
		{"link into a lower layer", layer.ReasonHardlink, []entry{hardlink("f", "lower")}},
		{"link to itself", layer.ReasonHardlink, []entry{file("f", ""), hardlink("f", "f")}},
		{"link to a directory", layer.ReasonHardlink, []entry{dir("d"), hardlink("f", "d")}},
		{"link to a whiteout", layer.ReasonHardlink, []entry{file(".wh.w", ""), hardlink("f", "w")}},
		{"link to nothing", layer.ReasonHardlink, []entry{hardlink("f", "")}},
		{"device 0:0", layer.ReasonDeviceZero, []entry{{typ: '3', name: "c"}}},
		{"device that becomes 0:0", layer.ReasonDevice, []entry{{typ: '3', name: "c", major: 4096}}},
		{"minor number", layer.ReasonDevice, []entry{{typ: '4', name: "b", major: 1, minor: 1 << 20}}},
		{"user id", layer.ReasonOwner, []entry{{typ: '0', name: "f", uid: 1<<32 - 1}}},
		{"group id", layer.ReasonOwner, []entry{{typ: '0', name: "f", gid: 1 << 32}}},
		{"security.evm", layer.ReasonXattr, []entry{{typ: '0', name: "f", xattrs: map[string]string{"security.evm": "v"}}}},
		{"user.overlay", layer.ReasonXattr, []entry{{typ: '0', name: "f", xattrs: map[string]string{"user.overlay.redirect": "v"}}}},
		{"bad capability", layer.ReasonXattr, []entry{{typ: '0', name: "f", xattrs: map[string]string{"security.capability": "v"}}}},
		{"bad ACL", layer.ReasonXattr, []entry{{typ: '0', name: "f", xattrs: map[string]string{"system.posix_acl_access": "v"}}}},
		{"link loop", layer.ReasonSymlinkLoop, []entry{symlink("a", "b"), symlink("b", "a"), file("a/f", "")}},
		{"answered by the host", layer.ReasonSymlinkHost, []entry{symlink("h", "/etc"), symlink("l", "h"), file("l/d/f", "")}},
		{"named directory gone", layer.ReasonDirectoryGone, []entry{dir("d"), {typ: 'g', name: "d"}}},
		{"time of unpacking", layer.ReasonTime, []entry{dir("a"), dir("b"), symlink("l", "a"), dir("l/d"), file("a/d/f", ""), symlink("l", "b"), dir("b/d")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := layer.FromTar(bytes.NewReader(makeTar(t, c.entries...)))
			var m *layer.MeaninglessError
			if !errors.As(err, &m) {
				t.Fatalf("got %v, want a *MeaninglessError", err)
			}
			if m.Reason != c.reason {
				t.Errorf("reason %q, want %q: %v", m.Reason, c.reason, err)
			}
		})
	}
}

func TestFromTarReadsToTheEnd(t *testing.T) {
	r := bytes.NewReader(append(makeTar(t, file("f", "x")), "and more"...))
	if _, err := layer.FromTar(r); err != nil {
		t.Fatal(err)
	}
	if r.Len() != 0 {
		t.Errorf("%d bytes left", r.Len())
	}
}

func TestFromTarReportsTruncation(t *testing.T) {
	data := makeTar(t, file("f", strings.Repeat("x", 5000)))
	_, err := layer.FromTar(bytes.NewReader(data[:2000]))
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	var m *layer.MeaninglessError
	if errors.As(err, &m) {
		t.Error("a broken transfer is taken for a bad layer")
	}
}

func TestWarnings(t *testing.T) {
	m := fromTar(t, entry{typ: '2', name: "l", link: "x", xattrs: map[string]string{"user.a": "v", "trusted.b": "v"}})
	if len(m.Warnings) != 2 {
		t.Errorf("warnings %q", m.Warnings)
	}
	if len(m.Records[0].Xattrs) != 0 {
		t.Errorf("xattrs %v", m.Records[0].Xattrs)
	}
}

// repeat yields one tar entry again and again: a tar of any length that never
// exists as a whole.
type repeat struct {
	entry []byte
	at    int
	left  int
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.entry[r.at:])
	if r.at += n; r.at == len(r.entry) {
		r.at = 0
		r.left--
	}
	return n, nil
}

// Content and repeated entries leave nothing in memory.
func TestFromTarStreams(t *testing.T) {
	one := makeTar(t, dir("d"), file("d/f", strings.Repeat("x", 1<<20)))
	one = one[:len(one)-1024] // without the end mark
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := layer.FromTar(&repeat{entry: one, left: 300})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if len(m.Records) != 2 {
		t.Errorf("%d records", len(m.Records))
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("%d bytes allocated for 300 MiB of one file", got)
	}
}

// Deep paths, and deep paths behind links, must not cost hours.
func TestFromTarDeepPaths(t *testing.T) {
	deep := strings.Repeat("d/", 2000)
	var entries []entry
	for i := range 500 {
		entries = append(entries, file(fmt.Sprintf("%sf%d", deep, i), ""))
	}
	start := processorTime(t)
	if m := fromTar(t, entries...); len(m.Records) != 2500 {
		t.Errorf("%d records", len(m.Records))
	}
	entries = []entry{file(deep+"f", "")}
	for i := range 38 {
		entries = append(entries, symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i+1)))
	}
	entries = append(entries, symlink("l38", "d"))
	for i := range 500 {
		entries = append(entries, file(fmt.Sprintf("l0/%sf%d", deep[2:], i), ""))
	}
	_, err := layer.FromTar(bytes.NewReader(makeTar(t, entries...)))
	var m *layer.MeaninglessError
	if !errors.As(err, &m) || m.Reason != layer.ReasonTooMany {
		t.Errorf("got %v", err)
	}
	if d := processorTime(t) - start; d > time.Minute {
		t.Errorf("took %v", d)
	}
}

// processorTime is what this process has used of processors: how long something
// takes depends on what else a machine does, what it costs does not.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func FuzzFromTar(f *testing.F) {
	for _, v := range vectors {
		f.Add(makeTar(f, v.entries...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := layer.FromTar(bytes.NewReader(data))
		if err != nil {
			return
		}
		got, err := layer.Read(bytes.NewReader(encode(t, m)))
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest() != m.Digest() {
			t.Error("digest moved by writing and reading")
		}
	})
}
