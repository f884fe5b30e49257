package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

const transcript = `Sealift in ten steps.

1. What can this machine hold?
   $ sealift doctor
4. It runs <as> always.
   $ ctr run
     hello & goodbye
   → it runs: ok
5. The log.
     replay   sha1 99
     value    sha256 46  equal
9. Again.
   $ ctr run
     ctr: sealift refused default/second
       layer 1
   $ ctr task ls
     TASK
`

func TestDraw(t *testing.T) {
	var b strings.Builder
	if err := draw(strings.NewReader(transcript), &b); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for dec := xml.NewDecoder(strings.NewReader(got)); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v\n%s", err, got)
		}
	}
	for _, want := range []string{`class="good">   → it runs: ok<`, "hello &amp; goodbye", "value    sha256", `class="bad">       layer 1<`, `class="output">     TASK<`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	for _, unwanted := range []string{"doctor", "sha1"} {
		if strings.Contains(got, unwanted) {
			t.Errorf("%q is in\n%s", unwanted, got)
		}
	}
}

func TestDrawNothing(t *testing.T) {
	if err := draw(strings.NewReader("demo: no such thing\n"), io.Discard); err == nil {
		t.Error("a demo that showed nothing was drawn")
	}
}
