package channel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"testing"
)

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func TestMessagesSurviveTheWire(t *testing.T) {
	h := hello{window: 1 << 20, akName: bytes.Repeat([]byte{7}, 34)}
	if got, err := decodeHello(h.encode()); err != nil || got.window != h.window || !bytes.Equal(got.akName, h.akName) {
		t.Errorf("%+v, %v", got, err)
	}
	q := request{round: 3, nonce: [32]byte{1}, from: Place{Epoch: [32]byte{2}, Seq: 1 << 40}}
	if got := decodeRequest(q.encode()); got != q {
		t.Errorf("%+v", got)
	}
	p := proof{round: 4, nonce: [32]byte{9}, size: 77}
	if got := decodeProof(p.encode()); got.round != p.round || got.nonce != p.nonce || got.size != p.size {
		t.Errorf("%+v", got)
	}
	if a := decodeAlert(encodeAlert(alertLate, "too\nlate\x1b[31m")); a.code != alertLate || a.text != "too late [31m" {
		t.Errorf("%+v", a)
	}
	if n := len(encodeAlert(alertLate, string(make([]byte, 9999)))); n != 1+maxText {
		t.Errorf("alert of %d bytes", n)
	}
}

// The wire format of version 1, to the byte.
func TestWireFormat(t *testing.T) {
	for _, x := range []struct {
		k    kind
		b    []byte
		want string
	}{
		{kindHello, hello{window: 0x100000, akName: []byte{0, 0x0b, 1}}.encode(), "\x01\x00\x00\x08\x00\x10\x00\x00\x03\x00\x0b\x01"},
		{kindRequest, request{round: 1, nonce: [32]byte{0: 0xaa, 31: 0xbb}, from: Place{[32]byte{0: 0xcc, 31: 0xdd}, 5}}.encode(),
			"\x02\x00\x00\x4c\x00\x00\x00\x01\xaa" + string(make([]byte, 30)) + "\xbb\xcc" + string(make([]byte, 30)) + "\xdd\x00\x00\x00\x00\x00\x00\x00\x05"},
		{kindEvidence, proof{round: 2, nonce: [32]byte{31: 0xee}, size: 0x10203}.encode(), "\x03\x00\x00\x28\x00\x00\x00\x02" + string(make([]byte, 31)) + "\xee\x00\x01\x02\x03"},
		{kindAccept, u32(2), "\x05\x00\x00\x04\x00\x00\x00\x02"},
		{kindData, []byte("hi"), "\x06\x00\x00\x02hi"},
		{kindBye, nil, "\x08\x00\x00\x00"},
		{kindAlert, encodeAlert(alertNotTrusted, "no"), "\x09\x00\x00\x03\x02no"},
	} {
		if got := string(appendFrame(nil, x.k, x.b)); got != x.want {
			t.Errorf("%s: %x\nwanted %x", x.k, got, x.want)
		}
	}
}

// A frame cut anywhere is never a frame, and never a clean end.
func TestTruncatedFrames(t *testing.T) {
	whole := appendFrame(nil, kindRequest, request{round: 1}.encode())
	buf := make([]byte, maxPiece)
	for n := range whole {
		_, _, err := readFrame(bufio.NewReader(bytes.NewReader(whole[:n])), buf)
		if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[n == 0]; err != want {
			t.Errorf("cut after %d bytes: %v, wanted %v", n, err, want)
		}
	}
}

func newReceiver() *receiver {
	return &receiver{maxEvidence: 100, credit: 1000, hold: func(int64) error { return nil }}
}

type frame struct {
	k kind
	b []byte
}

var (
	goodHello   = frame{kindHello, hello{window: minWindow, akName: []byte{1}}.encode()}
	goodRequest = frame{kindRequest, request{round: 1}.encode()}
)

func TestFramesOutOfPlace(t *testing.T) {
	evidence := frame{kindEvidence, proof{round: 1, size: 10}.encode()}
	open := func(r *receiver) { r.open = true }
	wants := func(r *receiver) { r.wanted = 1 }
	for name, x := range map[string]struct {
		set    func(*receiver)
		frames []frame
	}{
		"no hello":                     {nil, []frame{goodRequest}},
		"two hellos":                   {nil, []frame{goodHello, goodHello}},
		"hello, AK name longer":        {nil, []frame{{kindHello, append(goodHello.b, 0)}}},
		"hello, no AK name":            {nil, []frame{{kindHello, append(u32(minWindow), 0, 0)}}},
		"hello, no window":             {nil, []frame{{kindHello, hello{window: minWindow - 1, akName: []byte{1}}.encode()}}},
		"hello, huge window":           {nil, []frame{{kindHello, hello{window: maxWindow + 1, akName: []byte{1}}.encode()}}},
		"data before acceptance":       {nil, []frame{goodHello, {kindData, []byte("x")}}},
		"window before acceptance":     {nil, []frame{goodHello, {kindWindow, u32(1)}}},
		"bye before acceptance":        {nil, []frame{goodHello, {kindBye, nil}}},
		"round 2 first":                {nil, []frame{goodHello, {kindRequest, request{round: 2}.encode()}}},
		"request while one is open":    {nil, []frame{goodHello, goodRequest, {kindRequest, request{round: 2}.encode()}}},
		"evidence nobody wants":        {nil, []frame{goodHello, evidence}},
		"evidence of another round":    {func(r *receiver) { r.wanted = 2 }, []frame{goodHello, evidence}},
		"evidence in evidence":         {wants, []frame{goodHello, evidence, evidence}},
		"evidence of no bytes":         {wants, []frame{goodHello, {kindEvidence, proof{round: 1}.encode()}}},
		"evidence too big":             {wants, []frame{goodHello, {kindEvidence, proof{round: 1, size: 101}.encode()}}},
		"evidence after evidence":      {wants, []frame{goodHello, evidence, {kindChunk, make([]byte, 10)}, evidence}},
		"chunk without evidence":       {wants, []frame{goodHello, {kindChunk, []byte("x")}}},
		"chunk too long":               {wants, []frame{goodHello, evidence, {kindChunk, make([]byte, 11)}}},
		"accept of nothing":            {nil, []frame{goodHello, {kindAccept, u32(0)}}},
		"accept before evidence":       {nil, []frame{goodHello, goodRequest, {kindAccept, u32(1)}}},
		"accept twice":                 {func(r *receiver) { r.answered = 1 }, []frame{goodHello, goodRequest, {kindAccept, u32(1)}, {kindAccept, u32(1)}}},
		"more data than the window":    {open, []frame{goodHello, {kindData, make([]byte, 600)}, {kindData, make([]byte, 401)}}},
		"window of nothing":            {open, []frame{goodHello, {kindWindow, u32(0)}}},
		"window that overflows":        {open, []frame{goodHello, {kindWindow, u32(math.MaxInt32 - minWindow)}, {kindWindow, u32(1)}}},
		"window that is negative":      {open, []frame{goodHello, {kindWindow, u32(1 << 31)}}},
		"data after bye":               {open, []frame{goodHello, {kindBye, nil}, {kindData, []byte("x")}}},
		"kind that is checked earlier": {open, []frame{goodHello, {kind(77), nil}}},
	} {
		r := newReceiver()
		if x.set != nil {
			x.set(r)
		}
		for i, f := range x.frames {
			_, err := r.take(f.k, f.b)
			var bad *protocolError
			if last := i == len(x.frames)-1; last != errors.As(err, &bad) {
				t.Errorf("%s: frame %d (%s): %v", name, i, f.k, err)
			}
		}
	}
}

func TestHeldEvidenceIsLimited(t *testing.T) {
	g := newGuard(Limits{Held: 100, Evidence: 40})
	for _, x := range []struct {
		from string
		n    int64
		ok   bool
	}{{"a", 40, true}, {"a", 1, false}, {"b", 40, true}, {"c", 21, false}, {"c", 20, true}} {
		if err := g.hold(x.from, x.n); (err == nil) != x.ok || !x.ok && !errors.Is(err, errBusy) {
			t.Errorf("%s %d: %v", x.from, x.n, err)
		}
	}
	g.drop("a", 40)
	g.drop("b", 40)
	g.drop("c", 20)
	if g.held != 0 || len(g.sources) != 0 {
		t.Errorf("%d bytes, %d sources", g.held, len(g.sources))
	}
}

func TestRing(t *testing.T) {
	var p pending
	var in, out byte
	buf := make([]byte, 5000)
	for round := range 3000 {
		b := buf[:(round*7919)%97]
		for i := range b {
			b[i] = in
			in++
		}
		p.write(b)
		got := buf[:p.read(buf[:(round*104729)%101])]
		for _, x := range got {
			if x != out {
				t.Fatalf("round %d: %d, wanted %d", round, x, out)
			}
			out++
		}
	}
	if len(p.ring) == 0 || p.size > 5000 {
		t.Errorf("ring of %d with %d", len(p.ring), p.size)
	}
}

// FuzzFrames feeds a receiver any bytes. Whatever comes, no byte of the
// application passes before the channel is open, nothing is kept beyond the
// limits, and what was taken can be encoded again to what came.
func FuzzFrames(f *testing.F) {
	join := func(frames ...frame) (b []byte) {
		for _, x := range frames {
			b = appendFrame(b, x.k, x.b)
		}
		return b
	}
	f.Add(byte(0), join(goodHello, goodRequest))
	f.Add(byte(1), join(goodHello, frame{kindEvidence, proof{round: 1, size: 10}.encode()}, frame{kindChunk, make([]byte, 10)}))
	f.Add(byte(2), join(goodHello, frame{kindData, make([]byte, 500)}, frame{kindWindow, u32(9)}, frame{kindBye, nil}))
	f.Add(byte(7), join(goodHello, goodRequest, frame{kindAccept, u32(1)}, frame{kindRequest, request{round: 2}.encode()}))
	f.Add(byte(0), join(frame{kindAlert, encodeAlert(alertBusy, "later")}))
	f.Add(byte(2), []byte{6, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, start byte, stream []byte) {
		r := newReceiver()
		var held int64
		r.hold = func(n int64) error { held += n; return nil }
		if start&1 != 0 {
			r.wanted = 1
		}
		r.open = start&2 != 0
		if start&4 != 0 {
			r.answered = 1
		}
		in, buf := bufio.NewReader(bytes.NewReader(stream)), make([]byte, maxPiece)
		data, requests, proofs := 0, 0, 0
		for {
			k, b, err := readFrame(in, buf)
			if err != nil {
				if errors.Is(err, io.EOF) && k != 0 {
					t.Fatal("a frame and an end at once")
				}
				return
			}
			e, err := r.take(k, b)
			if err != nil {
				return
			}
			data += len(e.data)
			switch {
			case e.hello != nil:
				if !bytes.Equal(e.hello.encode(), b) {
					t.Fatalf("HELLO %x reads as %+v", b, e.hello)
				}
			case e.request != nil:
				requests++
				if !bytes.Equal(e.request.encode(), b) {
					t.Fatalf("REQUEST %x reads as %+v", b, e.request)
				}
			case e.proof != nil:
				proofs++
				if len(e.proof.evidence) != int(e.proof.size) {
					t.Fatalf("proof of %d bytes, announced %d", len(e.proof.evidence), e.proof.size)
				}
			}
			switch {
			case data > 0 && start&2 == 0:
				t.Fatal("data before the channel is open")
			case data > 1000:
				t.Fatalf("%d bytes of data through a window of 1000", data)
			case held > 100:
				t.Fatalf("%d bytes of evidence held, of 100", held)
			case proofs > 1 || proofs == 1 && start&1 == 0:
				t.Fatal("a proof that nobody asked for")
			case requests > 1 && start&4 == 0 || requests > 2:
				t.Fatalf("%d requests at once", requests)
			}
		}
	})
}

// docs/attestation.md is the specification: its table of frames is the code's.
func TestDocumentedFrames(t *testing.T) {
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (\d) \| ([A-Z]+) \| (\d+)(?:–(\d+))? \|`).FindAllStringSubmatch(string(page), -1)
	if len(rows) != int(kindAlert) {
		t.Fatalf("%d frames are documented, %d exist", len(rows), kindAlert)
	}
	for _, r := range rows {
		if r[4] == "" {
			r[4] = r[3]
		}
		k := kind(r[1][0] - '0')
		least, most, ok := payloadBounds(k)
		if got := fmt.Sprint(k, least, most); !ok || got != fmt.Sprintf("%s%s %s", r[2]+" ", r[3], r[4]) {
			t.Errorf("documented: %v; in code: %s", r[1:], got)
		}
	}
}
