package eventlog_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

// verify replays the newest epoch of a directory against values.
func verify(t testing.TB, dir string, values tpm.Values) *eventlog.Report {
	t.Helper()
	lines, err := eventlog.Lines(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := eventlog.Verify(lines, values)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// stored gives the newest epoch's lines as one text.
func stored(t testing.TB, dir string) []byte {
	t.Helper()
	return storedEpoch(t, dir, "")
}

func storedEpoch(t testing.TB, dir, epoch string) []byte {
	t.Helper()
	lines, err := eventlog.Lines(dir, epoch)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for line, err := range lines {
		if err != nil {
			t.Fatal(err)
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func TestVerify(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	l := open(t, c)
	middle := tpm.Values{}
	for i := range 6 {
		add(t, l, event("default", fmt.Sprint(i)))
		if i == 2 {
			middle = readPCR(t, c)
		}
	}
	end := readPCR(t, c)
	r := verify(t, c.Dir, end)
	if r.Match != eventlog.MatchEnd || r.MatchedSeq != 7 || !r.Proven() || !r.Computed.Equal(end) {
		t.Errorf("at the end: %+v", r)
	}
	for _, b := range c.Device.Banks() {
		if r.Banks[b] != 7 {
			t.Errorf("bank %s matched at %d", b, r.Banks[b])
		}
		one := verify(t, c.Dir, tpm.Values{b: end[b]})
		if one.Match != eventlog.MatchEnd {
			t.Errorf("bank %s alone: %s", b, one.Match)
		}
	}
	if r := verify(t, c.Dir, middle); r.Match != eventlog.MatchWithin || r.MatchedSeq != 4 || r.Unextended != 3 {
		t.Errorf("at an earlier value: %+v", r)
	}
	if r := verify(t, c.Dir, middle.Extended(end)); r.Match != eventlog.MatchNone || r.Proven() {
		t.Errorf("at a foreign value: %+v", r)
	}
	mixed := tpm.Values{tpm.SHA1: middle[tpm.SHA1], tpm.SHA256: end[tpm.SHA256]}
	if r := verify(t, c.Dir, mixed); r.Match != eventlog.MatchNone || r.Banks[tpm.SHA1] != 4 || r.Banks[tpm.SHA256] != 7 {
		t.Errorf("banks at two places: %+v", r)
	}
	if r := verify(t, c.Dir, nil); r.Match != eventlog.MatchUnknown || r.Proven() {
		t.Errorf("without values: %+v", r)
	}
}

// Every single changed byte of a stored log must be seen.
func TestVerifySeesEveryByte(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	l := open(t, c)
	e := event("default", "one")
	e.Salted = map[string][]byte{"env": []byte("SECRET=1")}
	add(t, l, e)
	end := readPCR(t, c)
	text := stored(t, c.Dir)
	salts := bytes.Index(text, []byte(`"salts":[{`))
	for i := range text {
		if i > salts && i < salts+200 && bytes.Contains(text[salts:i+1], []byte(`"salt":"`)) && !bytes.Contains(text[salts:i+1], []byte(`}]`)) {
			continue // the salt opens a value and is under no hash itself
		}
		changed := bytes.Clone(text)
		changed[i] ^= 0x01
		r, err := eventlog.Verify(eventlog.LinesOf(bytes.NewReader(changed)), end)
		if err == nil && r.Match == eventlog.MatchEnd {
			t.Fatalf("byte %d, %q → %q: nobody noticed: %s", i, text[i], changed[i], changed[max(0, i-60):min(len(text), i+60)])
		}
	}
}

func TestSaltedValues(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	l := open(t, c)
	e := event("default", "one")
	secret := []byte("TOKEN=hunter2-hunter2")
	e.Salted = map[string][]byte{"env": secret, "args": []byte("sh")}
	add(t, l, e)
	e.Container = "two"
	add(t, l, e)
	text := stored(t, c.Dir)
	for _, leak := range [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte("hunter2")} {
		if bytes.Contains(text, leak) {
			t.Errorf("the secret is in the log: %s", text)
		}
	}
	seen := map[eventlog.Hash]bool{}
	for line := range bytes.Lines(text) {
		d, err := eventlog.DecodeLine(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		if d.Item == nil {
			continue
		}
		rec, err := d.Item.Open()
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range rec.Salted {
			if want := eventlog.SaltedHash(d.Item.Salts[i].Salt, s.Name, e.Salted[s.Name]); want != s.Hash {
				t.Errorf("%s does not open", s.Name)
			}
			if seen[s.Hash] {
				t.Error("one value has one hash twice: the salt was used again")
			}
			seen[s.Hash] = true
		}
	}
	if len(seen) != 4 {
		t.Errorf("%d salted hashes", len(seen))
	}
}

// What one tenant is shown must replay like the whole log, hold its own items
// open and nothing of another's.
func TestView(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	l := open(t, c)
	for range 3 {
		add(t, l, event("tenant-red", "redbox"))
		add(t, l, event("tenant-blue", "bluebox"))
	}
	add(t, l, eventlog.Event{Type: "agent-start", Body: map[string]string{"for": "all"}})
	add(t, l, eventlog.Event{Type: "census", Body: map[string]string{"bypassing": "blueish"}})
	var view bytes.Buffer
	closed := map[eventlog.Hash]int{}
	for line := range bytes.Lines(stored(t, c.Dir)) {
		v, err := eventlog.View(bytes.TrimSuffix(line, []byte("\n")), "tenant-red", "agent-start")
		if err != nil {
			t.Fatal(err)
		}
		view.Write(append(v, '\n'))
		d, err := eventlog.DecodeLine(v)
		if err != nil {
			t.Fatal(err)
		}
		if d.Closed != nil {
			closed[d.Closed.Pseudonym]++
		}
	}
	if s := view.String(); strings.Count(s, "redbox") != 3 || strings.Contains(s, "blue") {
		t.Errorf("view of red:\n%s", s)
	}
	if len(closed) != 2 {
		t.Errorf("blue's three items and the node's census have %d pseudonyms", len(closed))
	}
	if !strings.Contains(view.String(), "agent-start") {
		t.Error("a node's record that the caller opened is closed")
	}
	r, err := eventlog.Verify(eventlog.LinesOf(&view), readPCR(t, c))
	if err != nil || r.Match != eventlog.MatchEnd || r.Records != 9 {
		t.Errorf("replay of the view: %+v, %v", r, err)
	}
}

func TestReadAndFollow(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	c.SegmentBytes = 3000 // several segments
	l := open(t, c)
	for i := range 10 {
		add(t, l, event("default", fmt.Sprint(i)))
	}
	var all bytes.Buffer
	if err := l.Read(t.Context(), 0, false, func(_ uint64, line []byte) error {
		all.Write(append(line, '\n'))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(all.Bytes(), stored(t, c.Dir)) {
		t.Error("Read does not give what is stored")
	}
	segments, err := filepath.Glob(filepath.Join(c.Dir, "epochs", "*", "*.log"))
	if err != nil || len(segments) < 3 {
		t.Errorf("segments %v, %v", segments, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan uint64, 100)
	done := make(chan error, 1)
	go func() {
		done <- l.Read(ctx, 10, true, func(seq uint64, line []byte) error {
			if bytes.HasPrefix(line, []byte(`{"item"`)) {
				got <- seq
			}
			return nil
		})
	}()
	for i := range 5 {
		add(t, l, event("default", fmt.Sprint("later", i)))
	}
	for want := uint64(10); want <= 16; want++ {
		select {
		case seq := <-got:
			if seq != want {
				t.Fatalf("followed to %d, want %d", seq, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("record %d never came", want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if r := verify(t, c.Dir, readPCR(t, c)); r.Match != eventlog.MatchEnd || r.Records != 16 {
		t.Errorf("%+v", r)
	}
}

// What asks for it is on the disk when it is answered; the rest soon after.
func TestSync(t *testing.T) {
	c := config(t, t.TempDir(), swtpmtest.Start(t).Device())
	c.SyncLag = 3 * time.Second
	l := open(t, c)
	e := event("default", "a")
	e.Sync = true
	seq := add(t, l, e)
	if s := l.State(); s.SyncedSeq != seq {
		t.Errorf("synced up to %d, answered %d", s.SyncedSeq, seq)
	}
	seq = add(t, l, event("default", "b"))
	if s := l.State(); s.SyncedSeq >= seq {
		t.Errorf("synced up to %d at once", s.SyncedSeq)
	}
	await(t, l, eventlog.Trusted, func() bool { return l.State().SyncedSeq == seq })
	await(t, l, eventlog.Trusted, func() bool {
		head, err := os.ReadFile(filepath.Join(c.Dir, "head"))
		return err == nil && bytes.Contains(head, fmt.Appendf(nil, `"seq":%d`, seq))
	})
}

// The write must be in the file when the TPM is asked to extend.
func TestWriteComesBeforeExtend(t *testing.T) {
	x := swtpmtest.Start(t)
	p := swtpmtest.NewProxy(t, x)
	c := config(t, t.TempDir(), p.Device())
	l := open(t, c)
	var missing []string
	n := 0
	p.Set(func(code uint32) {
		if code != swtpmtest.PCRExtend {
			return
		}
		paths, err := filepath.Glob(filepath.Join(c.Dir, "epochs", "*", "000001.log"))
		if err != nil || len(paths) != 1 {
			missing = append(missing, fmt.Sprint(paths, err))
			return
		}
		b, err := os.ReadFile(paths[0])
		id := fmt.Sprintf(`"container":"c%d"`, n)
		if err != nil || !bytes.Contains(b, []byte(id)) || !bytes.HasSuffix(b, []byte("}}}\n")) {
			missing = append(missing, id)
		}
		n++
	}, nil)
	for i := range 5 {
		add(t, l, event("default", fmt.Sprint("c", i)))
	}
	if n != 5 || len(missing) > 0 {
		t.Errorf("%d extends; not in the file before: %v", n, missing)
	}
}
