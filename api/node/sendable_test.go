package node

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// A file name that is not UTF-8 must not keep a refusal from being told: protobuf
// refuses to send it as it is.
func TestSendable(t *testing.T) {
	in := []*nodev1.Reason{{Code: "layer-content", Path: "/opt/n\xff-\xc3\x28-ü", Message: strings.Repeat("é", maxText)}}
	if _, err := proto.Marshal(in[0]); err == nil {
		t.Fatal("protobuf takes what is not UTF-8: the test proves nothing")
	}
	out := Sendable(in)
	if _, err := proto.Marshal(out[0]); err != nil {
		t.Fatal(err)
	}
	if want := `/opt/n\xff-\xc3(-ü`; out[0].GetPath() != want {
		t.Errorf("path %q, wanted %q", out[0].GetPath(), want)
	}
	if n := len(out[0].GetMessage()); n > maxText+8 {
		t.Errorf("message of %d bytes", n)
	}
	for range 100 {
		in = append(in, in[0])
	}
	if out = Sendable(in); len(out) != maxReasons+1 || out[maxReasons].GetMessage() != "37 more" {
		t.Errorf("%d reasons, the last %v", len(out), out[len(out)-1])
	}
}
