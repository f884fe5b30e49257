package bootlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"unicode/utf16"

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
	// CommandLines are the kernel's. Text is empty where the log holds only the
	// digest (the kernel's EFI stub).
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
func (l *Log) Facts() Facts {
	f := Facts{Vars: map[string]Digest{}}
	for i := range l.Events {
		e := &l.Events[i]
		switch {
		case e.Type == EFIVariableDriverConfig && e.PCR == 7 && e.Bound:
			f.variable(e)
		case e.Type == EFIBootApplication && e.PCR == 4:
			f.Applications = append(f.Applications, Digest{e.Digests})
		case e.Type == IPL && e.PCR == 8:
			if word, text, ok := grubText(e.Data); ok && word == "kernel_cmdline" && e.Bound {
				f.CommandLines = append(f.CommandLines, CommandLine{"BOOT_IMAGE=" + string(text), GRUB, Digest{e.Digests}})
			}
		case e.Type == IPL && e.PCR == 9:
			f.Files = append(f.Files, File{strings.TrimRight(string(e.Data), "\x00"), Digest{e.Digests}})
		case e.Type == EventTag && e.PCR == 9 && len(e.Data) >= 8:
			switch binary.LittleEndian.Uint32(e.Data) {
			case tagInitrd:
				f.Initrds = append(f.Initrds, Digest{e.Digests})
			case tagLoadOptions:
				f.CommandLines = append(f.CommandLines, CommandLine{"", EFIStub, Digest{e.Digests}})
			}
		}
	}
	return f
}

var globalVariable = []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

func (f *Facts) variable(e *Event) {
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
	on := len(v.Data) == 1 && v.Data[0] == 1
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
		return nil, errShort
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
