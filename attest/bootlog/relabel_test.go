package bootlog_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/sealift/sealift/attest/bootlog"
	"github.com/sealift/sealift/measure/tpm"
)

// encoded writes a log's events back, behind the header of b.
func encoded(b []byte, l *bootlog.Log) []byte {
	le := binary.LittleEndian
	out := bytes.Clone(b[:32+le.Uint32(b[28:])])
	for _, e := range l.Events {
		out = le.AppendUint32(le.AppendUint32(le.AppendUint32(out, uint32(e.PCR)), uint32(e.Type)), uint32(len(l.Banks)))
		for _, bank := range l.Banks {
			out = append(le.AppendUint16(out, uint16(bank)), e.Digests[bank]...)
		}
		out = append(le.AppendUint32(out, uint32(len(e.Data))), e.Data...)
	}
	return out
}

// relabelled changes types and data, which are under no digest, and checks that
// no PCR shows it: else it would be no attack.
func relabelled(t *testing.T, b []byte, change func(*bootlog.Log)) *bootlog.Log {
	t.Helper()
	l := parsed(t, b)
	want := l.Replay(l.Banks)
	change(l)
	out := parsed(t, encoded(b, l))
	for pcr, v := range out.Replay(out.Banks) {
		if !v.Equal(want[pcr]) {
			t.Fatalf("the change shows in PCR %d: it is no attack", pcr)
		}
	}
	return out
}

// naive is what believes the types, as Facts once did: how many programs, lines
// and files a log names.
func naive(l *bootlog.Log) (applications, files int) {
	for _, e := range l.Events {
		switch {
		case e.PCR == 4 && e.Type == bootlog.EFIBootApplication:
			applications++
		case e.PCR == 9 && e.Type == bootlog.IPL:
			files++
		}
	}
	return applications, files
}

// A program that booted is called something else: a type that says nothing, or a
// sentence whose bytes are the program's.
func TestProgramUnderAnotherType(t *testing.T) {
	b := file(t, "ovmf-grub.bin")
	good := parsed(t, b)
	before, _ := naive(good)
	for _, kind := range []bootlog.Type{0x80000004, 0x80000010, bootlog.EventTag, bootlog.IPL, bootlog.EFIAction, bootlog.Separator, 0x7777} {
		l := relabelled(t, b, func(l *bootlog.Log) {
			for i := range l.Events {
				if l.Events[i].Type == bootlog.EFIBootApplication {
					l.Events[i].Type = kind
				}
			}
		})
		if n, _ := naive(l); n >= before {
			t.Fatal("the attack does not work on who believes it")
		}
		if got, want := len(l.Facts().Applications), len(good.Facts().Applications); got != want {
			t.Errorf("as %s: %d programs, of %d", kind, got, want)
		}
	}
	// The bytes under the digest are known to who wrote the program: as a
	// sentence's, they recompute.
	program := append([]byte("MZ\x90\x00\x03\x00"), bytes.Repeat([]byte{0x41}, 40)...)
	l := relabelled(t, encoded(b, &bootlog.Log{Banks: good.Banks, Events: append(slices.Clone(good.Events[1:]), bootlog.Event{
		PCR: 4, Type: bootlog.EFIBootApplication, Digests: tpm.HashAll(good.Banks, program)})}), func(l *bootlog.Log) {
		e := &l.Events[len(l.Events)-1]
		e.Type, e.Data = bootlog.EFIAction, program
	})
	if got, want := len(l.Facts().Applications), len(good.Facts().Applications)+1; got != want {
		t.Errorf("a program as a sentence: %d programs, of %d", got, want)
	}
	if e := l.Events[len(l.Events)-1]; !e.Bound {
		t.Error("the sentence is not bound: the test shows nothing")
	}
}

// A file that GRUB read is called something else.
func TestFileUnderAnotherType(t *testing.T) {
	b := file(t, "ovmf-grub.bin")
	for _, kind := range []bootlog.Type{bootlog.EventTag, bootlog.EFIAction, bootlog.Separator, 0x7777} {
		l := relabelled(t, b, func(l *bootlog.Log) {
			for i := range l.Events {
				if e := &l.Events[i]; e.PCR == 9 && e.Type == bootlog.IPL {
					e.Type = kind
				}
			}
		})
		if _, n := naive(l); n != 0 {
			t.Fatal("the attack does not work on who believes it")
		}
		if got, want := len(l.Facts().Files), len(parsed(t, b).Facts().Files); got != want {
			t.Errorf("as %s: %d files, of %d", kind, got, want)
		}
	}
}

// The command line that booted is called a command, and a command the command
// line: the words before them are under no digest.
func TestCommandLineUnderAnotherWord(t *testing.T) {
	b := file(t, "ovmf-grub.bin")
	good := parsed(t, b)
	text := "(hd0)/kernel lockdown=integrity"
	wanted := "BOOT_IMAGE=" + text
	for name, hide := range map[string]func(e *bootlog.Event){
		"word": func(e *bootlog.Event) {
			e.Data = append([]byte("grub_cmd: "), bytes.TrimPrefix(e.Data, []byte("kernel_cmdline: "))...)
		},
		"type": func(e *bootlog.Event) { e.Type = 0x7777 },
		"data": func(e *bootlog.Event) { e.Data = []byte("?") },
	} {
		events := slices.Clone(good.Events[1:])
		at := slices.IndexFunc(events, func(e bootlog.Event) bool { return e.PCR == 8 })
		events = slices.Insert(events, at, bootlog.Event{PCR: 8, Type: bootlog.IPL, Digests: tpm.HashAll(good.Banks, []byte(text)), Data: []byte("grub_cmd: " + text + "\x00")})
		l := relabelled(t, encoded(b, &bootlog.Log{Banks: good.Banks, Events: events}), func(l *bootlog.Log) {
			for i := range l.Events {
				switch e := &l.Events[i]; {
				case e.PCR != 8:
					if e.PCR == 9 && e.Type == bootlog.EventTag { // the kernel's own word
						e.Type = bootlog.IPL
					}
				case bytes.HasPrefix(e.Data, []byte("kernel_cmdline: ")):
					hide(e)
				case bytes.Contains(e.Data, []byte(text)):
					e.Data = []byte("kernel_cmdline: " + text + "\x00")
				}
			}
		})
		f := l.Facts()
		if !slices.ContainsFunc(f.CommandLines, func(c bootlog.CommandLine) bool { return c.Is(wanted) }) {
			t.Fatalf("%s: the false command line is not even there: %q", name, f.CommandLines)
		}
		if !slices.ContainsFunc(f.CommandLines, func(c bootlog.CommandLine) bool { return !c.Is(wanted) }) {
			t.Errorf("%s: only the false command line is left: %q", name, f.CommandLines)
		}
	}
}

// Secure Boot was off, and who booted extends the PCR with the word that it is
// on; what the firmware measured is called something else.
func TestSecureBootSwitchedOnLater(t *testing.T) {
	b := file(t, "ovmf-grub.bin")
	good := parsed(t, b)
	was := slices.IndexFunc(good.Events, func(e bootlog.Event) bool { return e.PCR == 7 && e.Type == bootlog.EFIVariableDriverConfig })
	on := bytes.Clone(good.Events[was].Data)
	binary.LittleEndian.PutUint64(on[24:], 1)
	on = append(on[:32+2*len("SecureBoot")], 1)
	if !strings.Contains(string(bytes.ReplaceAll(on, []byte{0}, nil)), "SecureBoot") {
		t.Fatal("not the variable")
	}
	later := bootlog.Event{PCR: 7, Type: bootlog.EFIVariableDriverConfig, Digests: tpm.HashAll(good.Banks, on), Data: on}
	for _, kind := range []bootlog.Type{bootlog.EFIVariableAuthority, bootlog.EFIAction, 0x7777} {
		l := relabelled(t, encoded(b, &bootlog.Log{Banks: good.Banks, Events: append(slices.Clone(good.Events[1:]), later)}), func(l *bootlog.Log) {
			e := &l.Events[was]
			e.Type = kind
		})
		if last := l.Events[len(l.Events)-1]; !last.Bound {
			t.Fatal("the later word is not bound: the test shows nothing")
		}
		if s := l.Facts().SecureBoot; s == nil || *s {
			t.Errorf("as %s: Secure Boot is %v", kind, s)
		}
	}
}
