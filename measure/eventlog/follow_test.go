package eventlog

import (
	"bytes"
	"testing"

	"github.com/sealift/sealift/measure/tpm"
)

// A replay that is resumed at any batch comes to what one from the beginning
// comes to.
func TestResumedReplayIsTheWholeOne(t *testing.T) {
	lines := madeLines(t)
	whole := NewReplay()
	var steps []*Step
	var at []int
	blinds := []map[string]Hash{}
	for i, line := range lines {
		s, err := whole.Feed(line)
		if err != nil {
			t.Fatal(err)
		}
		if s == nil {
			continue
		}
		b := map[string]Hash{}
		if len(blinds) > 0 {
			for k, v := range blinds[len(blinds)-1] {
				b[k] = v
			}
		}
		for _, e := range s.Entries {
			if e.Record != nil {
				b[e.Record.Namespace] = e.Blind
			}
		}
		steps, at, blinds = append(steps, s), append(at, i+1), append(blinds, b)
	}
	last := steps[len(steps)-1]
	for k, s := range steps {
		text, err := Marshal(whole.Mark(s, blinds[k]))
		if err != nil {
			t.Fatal(err)
		}
		var m Mark
		if err := Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		r, err := ResumeReplay(m)
		if err != nil {
			t.Fatal(err)
		}
		if r.Start().Epoch != whole.Start().Epoch {
			t.Error("another epoch")
		}
		got := s
		for _, line := range lines[at[k]:] {
			x, err := r.Feed(line)
			if err != nil {
				t.Fatalf("from batch %d: %v", k+1, err)
			}
			if x != nil {
				got = x
			}
		}
		if got.Last != last.Last || !got.After.Equal(last.After) || got.Standing != last.Standing {
			t.Errorf("from batch %d it ends at %d, %v", k+1, got.Last, got.Standing)
		}
		// A line that was there already does not fit again.
		if r, err = ResumeReplay(m); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Feed(lines[0]); err == nil {
			t.Error("the log's beginning was taken twice")
		}
	}
}

func TestResumeReplayRefuses(t *testing.T) {
	lines := madeLines(t)
	r := NewReplay()
	var s *Step
	for _, line := range lines {
		x, err := r.Feed(line)
		if err != nil {
			t.Fatal(err)
		}
		if x != nil {
			s = x
		}
	}
	good := r.Mark(s, nil)
	if _, err := ResumeReplay(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Mark){
		"another epoch":    func(m *Mark) { m.Epoch[0]++ },
		"another boot":     func(m *Mark) { m.Begin = bytes.Replace(m.Begin, []byte(`"resetCount":`), []byte(`"resetCount":1`), 1) },
		"no beginning":     func(m *Mark) { m.Begin = nil },
		"no value":         func(m *Mark) { m.Values = banks{} },
		"record 0":         func(m *Mark) { m.Seq = 0 },
		"proven from last": func(m *Mark) { m.ProvenFrom = m.Seq + 1 },
	} {
		m := good
		change(&m)
		if _, err := ResumeReplay(m); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// madeLines is a log with several batches, tenants and a foreign extend.
func madeLines(t *testing.T) [][]byte {
	t.Helper()
	e := &epochBody{Version: FormatVersion, Instance: "host-a", BootID: "b", ResetCount: 7, Number: 1, PCR: 13, Initial: toBanks(tpm.Zero([]tpm.Bank{tpm.SHA1, tpm.SHA256})), State: Trusted, Class: "software"}
	var out [][]byte
	now, seq := tpm.Zero([]tpm.Bank{tpm.SHA1, tpm.SHA256}), uint64(0)
	batch := func(before tpm.Values, records ...Record) {
		first := seq + 1
		var digests []Hash
		for _, rec := range records {
			seq++
			text, err := Marshal(&rec)
			if err != nil {
				t.Fatal(err)
			}
			i := &Item{Epoch: e.id(), Seq: seq, Blind: Hash{byte(len(rec.Namespace))}, Salt: Hash{byte(seq)}, Salts: []Salt{}, Record: text}
			c, err := i.Close()
			if err != nil {
				t.Fatal(err)
			}
			digests = append(digests, c.Digest())
			line, err := (&Line{Item: i}).Encode()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, line)
		}
		now = before.Extended(tpm.HashAll(before.Banks(), EventData(e.id(), first, digests)))
		line, err := (&Line{Batch: &Batch{Epoch: e.id(), First: first, Count: uint32(len(records)), Before: toBanks(before), After: toBanks(now)}}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	record := func(kind, ns string, body any) Record {
		text, err := Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return Record{Type: kind, Namespace: ns, Salted: []Salted{}, Body: text}
	}
	batch(now, record(typeEpoch, "", e))
	batch(now, record("launch", "a", "x"), record("launch", "bb", "y"))
	found := now.Extended(tpm.HashAll(now.Banks(), []byte("foreign")))
	batch(found, record(typeForeign, "", foreignBody{toBanks(now), toBanks(found)}), record("exit", "a", "z"))
	batch(now, record(typeAcknowledged, "", acknowledgedBody{Foreign, ForeignExtend, 5, "seen"}), record("launch", "ccc", "w"))
	return out
}

// What is read off a line without decoding it is what decoding it gives.
func TestStoredSeqIsTheDecodedOne(t *testing.T) {
	lines := madeLines(t)
	for _, line := range lines {
		if l, err := DecodeLine(line); err != nil {
			t.Fatal(err)
		} else if l.Item != nil {
			c, err := l.Item.Close()
			if err != nil {
				t.Fatal(err)
			}
			b, err := (&Line{Closed: c}).Encode()
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, b)
		}
	}
	for _, line := range lines {
		l, err := DecodeLine(line)
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(0)
		switch {
		case l.Item != nil:
			want = l.Item.Seq
		case l.Closed != nil:
			want = l.Closed.Seq
		default:
			want = l.Batch.Last()
		}
		if got, ok := storedSeq(line); !ok || got != want {
			t.Errorf("%d, %v, wanted %d: %s", got, ok, want, line)
		}
		for n := range line {
			if seq, ok := storedSeq(line[:n]); ok && seq != want {
				t.Errorf("cut after %d bytes it is %d, not %d", n, seq, want)
			}
		}
	}
	for _, text := range []string{"", "{}", `{"item":{`, `{"batch":{"epoch":"`} {
		if _, ok := storedSeq([]byte(text)); ok {
			t.Errorf("%q has a number", text)
		}
	}
}
