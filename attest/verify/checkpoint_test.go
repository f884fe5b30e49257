package verify_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/measure/eventlog"
)

// again is a checkpoint as its file gives it back.
func again(t testing.TB, c *verify.Checkpoint) *verify.Checkpoint {
	t.Helper()
	if c == nil {
		t.Fatal("no checkpoint")
	}
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := verify.DecodeCheckpoint(b)
	if err != nil {
		t.Fatal(err)
	}
	if x, err := out.Encode(); err != nil || !bytes.Equal(x, b) {
		t.Errorf("decoded and encoded again: %v\n%s\n%s", err, b, x)
	}
	return out
}

// Judged bit by bit, a host comes to what it comes to as a whole.
func TestIncrementalIsTheWhole(t *testing.T) {
	w := newWorld(t)
	var prior *verify.Checkpoint
	step := func() {
		t.Helper()
		whole := w.appraise(w.host.evidence(ask{nonce: nonce}))
		from := uint64(1)
		if prior != nil {
			from = prior.Mark.Seq + 1
		}
		in := w.input(w.host.evidence(ask{nonce: nonce, from: from}))
		in.Prior = prior
		v := verify.Appraise(in)
		if v.Result != whole.Result || explain(v) != explain(whole) || fmt.Sprint(v.Containers) != fmt.Sprint(whole.Containers) || v.Proven != whole.Proven {
			t.Fatalf("whole:\n%s%v\nbit by bit:\n%s%v", explain(whole), whole.Containers, explain(v), v.Containers)
		}
		prior = again(t, v.Next)
	}
	step()
	step() // nothing new
	w.host.launch("default", "a")
	w.host.launch("other", "b")
	step()
	w.host.add("exit", "default", "a", raw(`{"status":0}`))
	w.host.add("deleted", "default", "a", nil)
	step()
	w.host.launch("default", "a")
	w.host.add("violation", "default", "a", raw(`{"rule":"exec"}`))
	step()
	w.host.add("deleted", "default", "a", nil)
	step()
	w.host.add("refusal", "default", "c", raw(`{"root":{"kind":"plain","upper":"none"},"policy":{"digest":"pol-1","content":"enforce","level":"baseline"},"reasons":[{"code":"no-image","message":"m"}]}`))
	step()
	w.host.extend(13, w.host.chip.pcrs[12]) // somebody else
	w.host.launch("third", "d")
	step()
	if v := w.appraise(w.host.evidence(ask{nonce: nonce})); !v.Has("log-foreign") {
		t.Error(explain(v))
	}
}

// A verdict goes on only from its own host's and view's, where it ended.
func TestCheckpointsBelongTogether(t *testing.T) {
	w := newWorld(t)
	w.host.launch("default", "a")
	prior := w.trusted(w.host.evidence(ask{nonce: nonce})).Next
	other := newMachine(t, w.ca, "host-b")
	in := w.input(other.evidence(ask{nonce: nonce}))
	in.Trust = w.policy(goodTrust + "\n")
	in.Trust.Hosts.Any = true
	in.Prior = prior
	refused(t, verify.Appraise(in), "other-host")

	in = w.input(w.host.evidence(ask{nonce: nonce, from: prior.Mark.Seq + 1}))
	refused(t, verify.Appraise(in), "log-beginning-missing")
	in.Evidence = w.host.evidence(ask{nonce: nonce, from: prior.Mark.Seq})
	in.Prior = prior
	refused(t, verify.Appraise(in), "log-beginning-missing")

	in.Evidence = w.host.evidence(ask{nonce: nonce, namespace: "default"})
	in.Expect.Namespace = "default"
	refused(t, verify.Appraise(in), "view")
	tenant := *prior
	tenant.Namespace = "default"
	in.Prior = &tenant
	if v := verify.Appraise(in); v.Result != verify.Trusted {
		t.Error(explain(v))
	}
}

// What was shown once must be proven the next time.
func TestProgressIsDemanded(t *testing.T) {
	w := newWorld(t)
	w.host.launch("default", "web")
	b := w.host.evidence(ask{nonce: nonce, between: func() { w.host.launch("default", "later") }})
	v := w.trusted(b)
	if v.Unproven == 0 || v.Next.Seen <= v.Proven {
		t.Fatalf("%+v", v)
	}
	in := w.input(b)
	in.Prior = again(t, v.Next)
	in.Prior.Clock = 0 // long ago
	w.host.chip.clock += 60_000
	// The host goes on to quote the old value.
	old := *w.host
	old.chip = w.host.chip.copied()
	value, err := v.Next.Mark.Value()
	if err != nil {
		t.Fatal(err)
	}
	old.chip.pcrs[13] = value
	in.Evidence = old.evidence(ask{nonce: nonce})
	refused(t, verify.Appraise(in), "no-progress")
	in.Evidence = w.host.evidence(ask{nonce: nonce})
	if v := verify.Appraise(in); v.Result != verify.Trusted {
		t.Error(explain(v))
	}
}

// A container's view: what is closed of its namespace rests on the agent.
func TestContainerView(t *testing.T) {
	w := newWorld(t)
	w.host.launch("default", "web")
	alone := w.input(w.host.evidence(ask{nonce: nonce, namespace: "default", container: "web"}))
	alone.Expect.Namespace, alone.Expect.Container = "default", "web"
	if v := verify.Appraise(alone); v.Result != verify.Trusted || !v.Has("view-complete") {
		t.Error(explain(v))
	}
	w.host.launch("default", "db")
	in := w.input(w.host.evidence(ask{nonce: nonce, namespace: "default", container: "web"}))
	in.Expect = alone.Expect
	refused(t, verify.Appraise(in), "container-view")
	p := *w.trust
	p.Views = "accept"
	in.Trust = &p
	v := verify.Appraise(in)
	if v.Result != verify.Trusted || len(v.Containers) != 1 || v.Claim(verify.FileSystem).Status != verify.Warning {
		t.Error(explain(v))
	}
}

// A tenant finds out when one of its records is closed, also with the agent's
// own signature.
func TestTenantMissesNothing(t *testing.T) {
	w := newWorld(t)
	w.host.launch("default", "web")
	w.host.add("violation", "default", "web", raw(`{"rule":"exec"}`))
	b := w.host.evidence(ask{nonce: nonce, namespace: "default", last: func(e *evidence.Evidence) { closeLine(t, e, "violation") }})
	in := w.input(b)
	in.Expect.Namespace = "default"
	if !(naive{}).accepts(t, b) {
		t.Error("the naive verifier refuses it too")
	}
	refused(t, verify.Appraise(in), "view-incomplete")
	// A namespace of which nothing is open is not a namespace without records.
	in.Evidence = w.host.evidence(ask{nonce: nonce, namespace: "none"})
	in.Expect.Namespace = "none"
	refused(t, verify.Appraise(in), "nothing-shown")
}

// closeLine closes the record of that type.
func closeLine(t testing.TB, e *evidence.Evidence, kind string) {
	t.Helper()
	for i, line := range e.Log.Lines {
		l, err := eventlog.DecodeLine(line)
		if err != nil {
			t.Fatal(err)
		}
		if l.Item == nil {
			continue
		}
		if r, err := l.Item.Open(); err != nil || r.Type != kind {
			continue
		}
		c, err := l.Item.Close()
		if err != nil {
			t.Fatal(err)
		}
		if e.Log.Lines[i], err = (&eventlog.Line{Closed: c}).Encode(); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no record %s", kind)
}

func BenchmarkAppraise(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000, 100_000} {
		w := newWorld(b)
		fill(w, n-10)
		prior := verify.Appraise(w.input(w.host.evidence(ask{nonce: nonce}))).Next
		fill(w, 10)
		whole := w.host.evidence(ask{nonce: nonce})
		part := w.host.evidence(ask{nonce: nonce, from: prior.Mark.Seq + 1})
		b.Run(fmt.Sprintf("whole/%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(whole)))
			b.ReportAllocs()
			for b.Loop() {
				if v := w.appraise(whole); v.Result != verify.Trusted {
					b.Fatal(explain(v))
				}
			}
		})
		in := w.input(part)
		in.Prior = prior
		b.Run(fmt.Sprintf("incremental/%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(part)))
			b.ReportAllocs()
			for b.Loop() {
				if v := verify.Appraise(in); v.Result != verify.Trusted {
					b.Fatal(explain(v))
				}
			}
		})
	}
}

// fill has containers come and go until there are n records more.
func fill(w *world, n int) {
	done := make(chan struct{}, 64)
	for i := 0; i < n; i += 5 {
		done <- struct{}{}
		go func() {
			defer func() { <-done }()
			id := fmt.Sprint("c", i)
			w.host.launch(fmt.Sprint("ns", i%16), id)
			w.host.add("exec", fmt.Sprint("ns", i%16), id, raw(`{"exec":"a"}`))
			w.host.add("exit", fmt.Sprint("ns", i%16), id, raw(`{"status":0}`))
			w.host.add("deleted", fmt.Sprint("ns", i%16), id, nil)
		}()
	}
	for range cap(done) {
		done <- struct{}{}
	}
}
