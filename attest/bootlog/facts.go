package bootlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/sealift/sealift/internal/cursor"
	"github.com/sealift/sealift/measure/tpm"
)

// Facts is what a log proves of a boot, once it was replayed to quoted PCRs.
type Facts struct {
	// SecureBoot is what the firmware measured of the variable; nil where the
	// log does not hold it as it should.
	SecureBoot *bool
	// Applications are what the firmware started in order: boot loaders and,
	// where it starts the kernel itself, the kernel. Authenticode digests.
	Applications []Digest
	// Files are what the boot loader read, by GRUB's names: kernel, initrd,
	// modules, its configuration. The names are not under the digest.
	Files []File
	// CommandLines are the kernel's, and what may have been one. Text is empty
	// where the log holds only the digest (the kernel's EFI stub).
	CommandLines []CommandLine
	// Initrds are digests of initial file systems that the kernel's EFI stub
	// measured.
	Initrds []Digest
	// Vars are the digests of the Secure Boot variables' data: PK, KEK, db, dbx.
	Vars map[string]Digest
}

// Digest is a value in each bank of the log.
type Digest struct{ Values tpm.Values }

// SHA256 gives the digest's text in the bank that trust policies are written
// in; empty where the log does not have that bank.
func (d Digest) SHA256() string {
	if v, ok := d.Values[tpm.SHA256]; ok {
		return "sha256:" + hex.EncodeToString(v)
	}
	return ""
}

// File is one file that a boot loader read.
type File struct {
	Name string
	Digest
}

// CommandLine is one command line that was measured.
type CommandLine struct {
	// Text is as the kernel shows it in /proc/cmdline, and bound: the digest was
	// recomputed from it. GRUB measures it without the word BOOT_IMAGE=.
	Text string
	// By says who measured it: GRUB or EFIStub.
	By string
	Digest
}

// Who measures command lines.
const (
	GRUB    = "grub"
	EFIStub = "efi-stub"
)

// Is says whether the command line is text. Where the log has only a digest,
// text is hashed as the measuring program does it.
func (c CommandLine) Is(text string) bool {
	if c.By != EFIStub {
		return c.Text == text
	}
	for _, b := range loadOptions(text) {
		if same(c.Values, b) {
			return true
		}
	}
	return false
}

// loadOptions is a command line as the EFI stub is handed it: UTF-16, with or
// without the zero at its end.
func loadOptions(text string) [][]byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return [][]byte{append(bytes.Clone(b), 0, 0), b}
}

func same(v tpm.Values, data []byte) bool {
	for b, d := range v {
		if !bytes.Equal(b.Hash(data), d) {
			return false
		}
	}
	return len(v) > 0
}

// Tags of the kernel's EFI stub (drivers/firmware/efi/libstub, efi-stub-helper.c).
const (
	tagInitrd      = 0x8F3B22EC
	tagLoadOptions = 0x8F3B22ED
)

// Facts gathers what the log proves. What is in a PCR that an operating system
// can extend counts only up to that: whoever runs first may have added to it.
//
// An event's type, and the word GRUB puts before its text, are under no digest:
// who writes the log can call a program a driver, or a file a tag. So an event
// in a PCR that is judged either says itself that it is harmless, or counts as
// what that PCR is for: a program in 4, a command line in 8, a file in 9.
func (l *Log) Facts() Facts {
	f := Facts{Vars: map[string]Digest{}}
	var linux []CommandLine
	first := true // of PCR 7
	for i := range l.Events {
		e := &l.Events[i]
		if e.Type == NoAction {
			continue
		}
		switch e.PCR {
		case 4:
			if !e.separates() && !e.announces() {
				f.Applications = append(f.Applications, Digest{e.Digests})
			}
		case 7:
			if e.Type == EFIVariableDriverConfig && e.Bound {
				f.variable(e, first)
			}
			first = first && e.announces()
		case 8:
			word, text, ok := grubText(e.Data)
			switch ok = ok && e.Type == IPL && e.Bound; {
			case e.separates():
			case !ok:
				f.CommandLines = append(f.CommandLines, CommandLine{"", EFIStub, Digest{e.Digests}})
			case word == "kernel_cmdline":
				f.CommandLines = append(f.CommandLines, CommandLine{"BOOT_IMAGE=" + string(text), GRUB, Digest{e.Digests}})
			default:
				if command, rest, _ := strings.Cut(string(text), " "); slices.Contains(loads, command) {
					linux = append(linux, CommandLine{"BOOT_IMAGE=" + rest, GRUB, Digest{e.Digests}})
				}
			}
		case 9:
			f.loaded(e)
		}
	}
	f.commands(linux)
	return f
}

// loads are GRUB's commands that load a Linux.
var loads = []string{"linux", "linux16", "linuxefi"}

// commands adds what GRUB was told to load and says it never loaded: the word
// before the line that it did load may have been changed for another's.
func (f *Facts) commands(linux []CommandLine) {
	plain := strings.NewReplacer(`\`, "", `"`, "", "'", "")
	measured := len(f.CommandLines)
	for _, c := range linux {
		if !slices.ContainsFunc(f.CommandLines[:measured], func(m CommandLine) bool { return plain.Replace(m.Text) == plain.Replace(c.Text) }) {
			f.CommandLines = append(f.CommandLines, CommandLine{"", EFIStub, c.Digest})
		}
	}
}

// loaded takes in an event of PCR 9.
func (f *Facts) loaded(e *Event) {
	if e.Type == EventTag && len(e.Data) >= 8 {
		switch binary.LittleEndian.Uint32(e.Data) {
		case tagInitrd:
			f.Initrds = append(f.Initrds, Digest{e.Digests})
			return
		case tagLoadOptions:
			f.CommandLines = append(f.CommandLines, CommandLine{"", EFIStub, Digest{e.Digests}})
			return
		}
	}
	switch {
	case e.separates():
	case e.Type == IPL:
		f.Files = append(f.Files, File{strings.TrimRight(string(e.Data), "\x00"), Digest{e.Digests}})
	default:
		f.Files = append(f.Files, File{e.Type.String(), Digest{e.Digests}})
	}
}

// separates says that the event is a separator, and can be nothing else.
func (e *Event) separates() bool {
	return e.Type == Separator && e.Bound && (bytes.Equal(e.Data, make([]byte, 4)) || bytes.Equal(e.Data, bytes.Repeat([]byte{0xff}, 4)))
}

// maxAction is longer than any of the profile's sentences, and shorter than a
// program's headers.
const maxAction = 128

// announces says that the event is a sentence of the firmware's. A program is
// none: its headers hold zeroes.
func (e *Event) announces() bool {
	text := bytes.TrimRight(e.Data, "\x00")
	return (e.Type == Action || e.Type == EFIAction) && e.Bound && len(e.Data) <= maxAction &&
		!bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

var globalVariable = []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

// variable takes in a variable that was measured. The firmware measures
// SecureBoot ahead of all else in PCR 7; what comes later, a program measured.
func (f *Facts) variable(e *Event, first bool) {
	v, err := parseVariable(e.Data)
	if err != nil {
		return
	}
	if v.Name != "SecureBoot" {
		d := tpm.HashAll(e.Digests.Banks(), v.Data)
		f.Vars[v.Name] = Digest{d}
		return
	}
	// Measured twice with different words, it says nothing.
	on := first && len(v.Data) == 1 && v.Data[0] == 1
	if !bytes.Equal(v.GUID, globalVariable) || (f.SecureBoot != nil && *f.SecureBoot != on) {
		on = false
	}
	f.SecureBoot = &on
}

// variable is a UEFI_VARIABLE_DATA (PFP, section 10.2.6).
type variable struct {
	GUID []byte
	Name string
	Data []byte
}

func parseVariable(b []byte) (*variable, error) {
	if len(b) < 32 {
		return nil, cursor.ErrShort
	}
	names, size := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	rest := uint64(len(b) - 32)
	if names > rest/2 || size != rest-2*names {
		return nil, errors.New("variable does not end where it says")
	}
	u := make([]uint16, names)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[32+2*i:])
	}
	return &variable{b[:16], string(utf16.Decode(u)), b[32+2*names:]}, nil
}

// grubText takes GRUB's event data apart: "kernel_cmdline: TEXT", with a zero
// behind it.
func grubText(data []byte) (word string, text []byte, ok bool) {
	data = bytes.TrimSuffix(data, []byte{0})
	// Red Hat's older ones put another word there, without a colon.
	for prefix, word := range map[string]string{
		"grub_cmd: ": "grub_cmd", "kernel_cmdline: ": "kernel_cmdline", "module_cmdline: ": "module_cmdline",
		"grub_cmd ": "grub_cmd", "grub_kernel_cmdline ": "kernel_cmdline",
	} {
		if rest, found := bytes.CutPrefix(data, []byte(prefix)); found {
			return word, rest, true
		}
	}
	return "", nil, false
}
