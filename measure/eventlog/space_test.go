package eventlog_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// smallDisk mounts a tmpfs of the given size; without the right to mount the
// test is skipped.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))
	skip.On(t, err)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all that is free on the file system.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(b)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// On a full disk starts are refused at once and with a hint; what happened
// anyway is still recorded, in reserved space; and when there is room again
// everything goes on by itself.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, 2<<20)
	c := config(t, filepath.Join(dir, "log"), swtpmtest.Start(t).Device())
	c.Reserve = 256 << 10
	l := open(t, c)
	add(t, l, event("default", "a"))
	fill(t, filepath.Join(dir, "ballast"))
	refused := eventlog.Event{Type: "refusal", Namespace: "default", Container: "r", Reserved: true}
	var err error
	for i := 0; err == nil && i < 10000; i++ {
		_, err = l.Append(t.Context(), event("default", fmt.Sprint(i)))
	}
	var away *eventlog.UnavailableError
	if !errors.As(err, &away) || away.State.Cause != eventlog.CauseSpace || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "hint:") {
		t.Fatalf("append on a full disk: %v", err)
	}
	if s := l.State(); s.Name != eventlog.Unavailable || s.AllowsStarts() {
		t.Errorf("state %+v", s)
	}
	refusedAtOnce(t, func() error {
		_, err := l.Append(t.Context(), event("default", "z"))
		return err
	})
	if seq := add(t, l, refused); seq == 0 {
		t.Error("a refusal was not recorded although space is reserved")
	}
	// One namespace cannot take the whole reserve: another's still is recorded.
	for range 2000 {
		refused.Namespace = "greedy"
		add(t, l, refused)
	}
	refused.Namespace = "modest"
	if seq := add(t, l, refused); seq == 0 {
		t.Error("another namespace's refusal was not recorded")
	}
	if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd || !r.Proven() {
		t.Errorf("replay %+v", r)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	await(t, l, eventlog.Trusted)
	add(t, l, event("default", "b"))
	if text := string(stored(t, c.Dir)); !strings.Contains(text, `"type":"log-unavailable"`) || !strings.Contains(text, `"cause":"space"`) {
		t.Error("the time without records is not told")
	}
	if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd || !r.Proven() || r.Unended != 0 {
		t.Errorf("replay %+v", r)
	}
}

// One tenant's flood stops that tenant, never another.
func TestQuotaIsPerNamespace(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	c.Quota = eventlog.Quota{BytesPerMinute: 60 << 10, Burst: 40 << 10, Share: 0.5}
	// The clock stands: what a quota grants does not grow with the time the test takes.
	var ahead atomic.Int64
	began := time.Now()
	c.Now = func() time.Time { return began.Add(time.Duration(ahead.Load())) }
	c.Window = time.Second
	l := open(t, c)
	var wg sync.WaitGroup
	var refused, answered atomic.Int64
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				_, err := l.Append(t.Context(), event("flood", fmt.Sprint(i)))
				var q *eventlog.QuotaError
				switch {
				case err == nil:
					answered.Add(1)
				case errors.As(err, &q) && q.Namespace == "flood" && q.RetryAfter > 0 && strings.Contains(err.Error(), "hint:"):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	for i := range 20 {
		add(t, l, event("calm", fmt.Sprint(i)))
	}
	wg.Wait()
	if refused.Load() == 0 || answered.Load() == 0 {
		t.Fatalf("flood: %d answered, %d refused", answered.Load(), refused.Load())
	}
	// What happened anyway is counted instead of refused, and told later.
	counted := 0
	for range 50 {
		if add(t, l, eventlog.Event{Type: "refusal", Namespace: "flood", Reserved: true}) == 0 {
			counted++
		}
	}
	if counted < 40 {
		t.Errorf("only %d of 50 refusals were counted instead of recorded", counted)
	}
	want := fmt.Sprintf(`"of":0,"type":"refusal","count":%d,`, counted)
	ahead.Store(int64(time.Minute))
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(string(stored(t, c.Dir)), want) {
		if time.Now().After(deadline) {
			t.Fatalf("the counted refusals are not told")
		}
		time.Sleep(20 * time.Millisecond)
	}
	add(t, l, event("flood", "again, a minute later"))
	if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd {
		t.Errorf("replay %+v", r)
	}
}

// A namespace's share of the epoch is its bound even when it is slow.
func TestQuotaShareAndBudget(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	c.MaxBytes, c.Reserve = 64<<10, 8<<10
	c.Quota.Share = 0.25
	l := open(t, c)
	var err error
	var q *eventlog.QuotaError
	for i := 0; err == nil; i++ {
		_, err = l.Append(t.Context(), event("one", fmt.Sprint(i)))
	}
	if !errors.As(err, &q) || q.RetryAfter != 0 {
		t.Fatalf("beyond the share: %v", err)
	}
	add(t, l, event("two", "a"))
	var away *eventlog.UnavailableError
	for i := 0; !errors.As(err, &away); i++ {
		if i > 1000 {
			t.Fatal("the epoch never was full")
		}
		_, err = l.Append(t.Context(), event(fmt.Sprint("ns", i), "a"))
	}
	if away.State.Cause != eventlog.CauseBudget || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("full epoch: %v", err)
	}
	if seq := add(t, l, eventlog.Event{Type: "refusal", Namespace: "two", Reserved: true}); seq == 0 {
		t.Error("a refusal found no room in a full epoch")
	}
}

// Exec probes: the first is recorded, its repeats are counted.
func TestCoalesce(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	var ahead atomic.Int64
	began := time.Now()
	c.Now = func() time.Time { return began.Add(time.Duration(ahead.Load())) }
	l := open(t, c)
	probe := func(ns, id, args string) eventlog.Event {
		return eventlog.Event{Type: "exec", Namespace: ns, Container: id, Coalesce: "probe", Start: true, Salted: map[string][]byte{"args": []byte(args)}}
	}
	first := add(t, l, probe("default", "a", "true"))
	for range 99 {
		if seq := add(t, l, probe("default", "a", "true")); seq != first {
			t.Fatalf("a repeat got %d, not %d", seq, first)
		}
	}
	for _, other := range []eventlog.Event{probe("default", "a", "rm -rf /"), probe("default", "b", "true"), probe("other", "a", "true")} {
		if seq := add(t, l, other); seq == first {
			t.Errorf("%+v was taken for a repeat", other)
		}
	}
	want := fmt.Sprintf(`"of":%d,"type":"exec","count":99,`, first)
	ahead.Store(int64(2 * time.Minute))
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(string(stored(t, c.Dir)), want) {
		if time.Now().After(deadline) {
			t.Fatalf("repeats are not told")
		}
		time.Sleep(20 * time.Millisecond)
	}
	second := add(t, l, probe("default", "a", "true"))
	add(t, l, probe("default", "a", "true"))
	if second == first {
		t.Error("the window never closed")
	}
	// A foreign extend closes the way for repeats as well.
	foreign(t, c)
	if _, err := l.Append(t.Context(), event("default", "x")); err == nil {
		t.Fatal("a start after a foreign extend")
	}
	var refused *eventlog.StateError
	if _, err := l.Append(t.Context(), probe("default", "a", "true")); !errors.As(err, &refused) {
		t.Errorf("a repeat that starts something, in state foreign: %v", err)
	}
	closeLog(t, l)
	if text := string(stored(t, c.Dir)); !strings.Contains(text, fmt.Sprintf(`"of":%d,"type":"exec","count":1,`, second)) || !strings.Contains(text, `"window":60`) {
		t.Errorf("Close does not tell what was counted")
	}
}
