package verify

import (
	"bytes"
	"slices"
	"strings"

	"github.com/sealift/sealift/attest/bootlog"
	"github.com/sealift/sealift/attest/imalog"
	"github.com/sealift/sealift/measure/tpm"
)

// Boot is what the quoted boot log proves.
type Boot struct {
	Measured     bool     `json:"measured"`
	SecureBoot   *bool    `json:"secureBoot,omitempty"`
	Applications []string `json:"applications"`
	Files        []string `json:"files"`
	Initrds      []string `json:"initrds"`
	CommandLines []string `json:"commandLines"`
	// IMA counts the entries that the quote covers.
	IMA int `json:"ima"`
}

// bootFacts reads the boot log, now that the quote holds.
func (a *appraisal) bootFacts(pcrs map[int]tpm.Values) {
	a.pcrs = pcrs
	a.ima = a.ima[:a.found.ima]
	a.v.Boot = &Boot{IMA: len(a.ima)}
	for _, b := range a.quote.banks() {
		for pcr := range 8 {
			if !bytes.Equal(pcrs[pcr][b], make([]byte, b.Size())) {
				a.v.Boot.Measured = true
			}
		}
	}
	if a.boot == nil {
		return
	}
	a.bootedBy = a.boot.Facts()
	f := a.bootedBy
	a.v.Boot.SecureBoot = f.SecureBoot
	for _, d := range f.Applications {
		a.v.Boot.Applications = append(a.v.Boot.Applications, d.SHA256())
	}
	for _, d := range f.Files {
		a.v.Boot.Files = append(a.v.Boot.Files, d.SHA256()+" "+d.Name)
	}
	for _, d := range f.Initrds {
		a.v.Boot.Initrds = append(a.v.Boot.Initrds, d.SHA256())
	}
	for _, c := range f.CommandLines {
		text := c.Text
		if c.By == bootlog.EFIStub {
			text = c.SHA256()
		}
		a.v.Boot.CommandLines = append(a.v.Boot.CommandLines, text)
	}
}

func (a *appraisal) judgeBoot() {
	p, f := a.p.Boot, a.bootedBy
	if !a.v.Boot.Measured {
		for _, claim := range []string{Configuration, Executables} {
			a.answer(p.Unmeasured, claim, "boot-unmeasured", a.v.Host, "boot with firmware that measures into this TPM, or accept it: boot: unmeasured: accept",
				"firmware, boot loader and kernel were not measured into this TPM")
		}
		return
	}
	on := "the firmware, which measures itself and what it starts"
	a.rests(Configuration, on)
	a.rests(Executables, on)
	if e, ok := a.boot.Intact(); !ok {
		a.refuse(Configuration, "boot-log-data", e.Type.String(), "", "the boot log's event %s in PCR %d has other data than was measured", e.Type, e.PCR)
	}
	switch {
	case f.SecureBoot != nil && *f.SecureBoot:
		a.affirm(Configuration, "secure-boot", "Secure Boot is on")
	case p.SecureBoot == "any":
		a.warn(Configuration, "secure-boot", a.v.Host, "Secure Boot is off; accepted by policy")
	default:
		a.refuse(Configuration, "secure-boot", a.v.Host, "switch it on, or accept it: boot: secure-boot: any", "Secure Boot is off, or the boot log does not say that it is on")
	}
	for i, d := range f.Applications {
		if s := d.SHA256(); p.Applications.Has(s) {
			a.affirm(Executables, "boot-application", "the firmware started %s", short(s))
		} else {
			a.refuse(Executables, "boot-application", s, "list it under boot: applications:, if you know it", "the firmware started program %d, %s, which the policy does not list", i+1, s)
		}
	}
	if len(f.Applications) == 0 && !p.Applications.Any {
		a.refuse(Executables, "boot-application", "", "", "the boot log names no program that the firmware started")
	}
	for _, d := range f.Files {
		if s := d.SHA256(); !p.Files.Has(s) {
			a.refuse(Executables, "boot-file", d.Name, "list it under boot: files:, if you know it", "the boot loader read %s, %s, which the policy does not list", d.Name, s)
		}
	}
	for _, d := range f.Initrds {
		if s := d.SHA256(); p.Initrds.Has(s) {
			a.affirm(Executables, "initrd", "the initial file system is %s", short(s))
		} else {
			a.refuse(Executables, "initrd", s, "list it under boot: initrds:, if you know it", "the kernel was given the initial file system %s, which the policy does not list", s)
		}
	}
	// Which is which in PCR 9, the log says, and no digest.
	switch {
	case len(f.Initrds) == 0 && len(p.Initrds.Values) > 0:
		a.refuse(Executables, "initrd", "", "", "the boot log names no initial file system, and the policy lists one")
	case len(f.Files)+len(f.Initrds) > 0 && p.Files.Any != p.Initrds.Any:
		a.warn(Executables, "boot-labels", a.v.Host, "which digests are files and which initial file systems, only the boot log says, and the policy accepts any of one kind")
	}
	a.judgeCommandLine()
}

// commandLine is the kernel's, where exactly one was measured and its text is
// known: from the log, or because the policy's text has the measured digest.
func (a *appraisal) commandLine() (string, bool) {
	if len(a.bootedBy.CommandLines) == 0 {
		return "", false
	}
	text, known := "", false
	for _, c := range a.bootedBy.CommandLines {
		found, ok := c.Text, c.By != bootlog.EFIStub
		if !ok {
			for _, t := range a.p.Boot.CommandLine.Values {
				if c.Is(t) {
					found, ok = t, true
				}
			}
		}
		if !ok {
			// Another program may have measured the same line in clear.
			ok = known && c.Is(text)
			found = text
		}
		if !ok || (known && found != text) {
			return "", false
		}
		text, known = found, true
	}
	return text, known
}

func (a *appraisal) judgeCommandLine() {
	p := a.p.Boot
	text, known := a.commandLine()
	switch {
	case p.CommandLine.Any:
	case !known:
		a.refuse(Configuration, "command-line", "", "the kernel's EFI stub measures a digest only: list whole command lines under boot: command-line:", "the kernel's command line was not measured, or not in clear, or twice")
	case slices.Contains(p.CommandLine.Values, text):
		a.affirm(Configuration, "command-line", "the kernel's command line is one that the policy lists")
	default:
		a.refuse(Configuration, "command-line", text, "list it under boot: command-line:, if you know it", "the kernel's command line is %q, which the policy does not list", text)
	}
	words := strings.Fields(text)
	for _, w := range p.Contains {
		if !known || !slices.Contains(words, w) {
			a.refuse(Configuration, "command-line-lacks", w, "", "the kernel's command line does not hold %s, as far as it was measured", w)
		}
	}
	for _, w := range p.Forbids {
		if !known || slices.Contains(words, w) {
			a.refuse(Configuration, "command-line-holds", w, "", "the kernel's command line holds %s, or was not measured in clear", w)
		}
	}
}

// judgeIMA says whether something that ran before the agent vouches for it: the
// kernel, which was told in the measured command line to measure every program.
func (a *appraisal) judgeIMA(g *Agent) bool {
	p := a.p.IMA
	if len(a.ima) == 0 {
		return false
	}
	text, known := a.commandLine()
	words := strings.Fields(text)
	if !known || !slices.ContainsFunc(p.Policies, func(w string) bool { return slices.Contains(words, w) }) {
		a.add(Executables, Warning, "ima-policy", "", "", "IMA measured %d files, and no measured command line says by which policy", len(a.ima))
		return false
	}
	if !a.aggregate() {
		a.refuse(Executables, "ima-aggregate", "", "", "the IMA log does not begin with this boot's PCRs")
		return false
	}
	if a.found.padded && !p.Padded.Yes() {
		a.refuse(Executables, "ima-padded", "", "boot a kernel since 5.8", "the kernel extends IMA's SHA-1 digests only")
		return false
	}
	accepted := a.p.Agent.Executables["sealiftd"]
	seen, others, data := false, 0, 0
	var named []string
	for i := range a.ima {
		e := &a.ima[i]
		switch {
		case i == 0 || e.IsBuffer():
		case e.Violation:
			if e.Name == a.p.Agent.Path {
				a.refuse(Executables, "ima-violation", e.Name, "", "the agent's file was open for writing while it was measured")
				return false
			}
			a.answer(p.Violations, Executables, "ima-violation", e.Name, "accept them: ima: violations: accept", "%s was open for writing while it was measured", e.Name)
		case e.Name == a.p.Agent.Path && accepted.Has(e.Text()):
			seen = true
		case e.Name == a.p.Agent.Path:
			a.refuse(Executables, "agent-replaced", e.Text(), "somebody ran another program in Sealift's place", "IMA saw %s run as %s, which the policy does not list", e.Name, e.Text())
			return false
		case accepted.Has(e.Text()) && !accepted.Any, p.Files.Has(e.Text()):
		case slices.ContainsFunc(p.Data, func(dir string) bool { return strings.HasPrefix(e.Name, dir) && !strings.Contains(e.Name, "/../") }):
			data++
		default:
			if others++; len(named) < 5 {
				named = append(named, e.Name)
			}
		}
	}
	if !seen {
		a.refuse(Executables, "agent-unseen", a.p.Agent.Path, "is agent: path: where the host keeps it?", "IMA saw no accepted agent at %s", a.p.Agent.Path)
		return false
	}
	a.rests(Executables, "the kernel and its IMA policy, which sees no program on tmpfs")
	if others > 0 {
		// One of them may be an agent that the kernel measured under another name
		// and that was moved to the agent's place, or ran where it was.
		a.answer(p.Others, Executables, "ima-others", a.v.Host, "list them under ima: files:, or, if they are data that is never run, their directory under ima: data:",
			"%d files that the policy does not list ran, or were read by root; one that ran as root could have spoken in Sealift's place: %s", others, strings.Join(named, ", "))
		return false
	}
	if data > 0 {
		a.rests(Executables, "the policy's word that nothing below "+strings.Join(p.Data, ", ")+" is run")
	}
	if g != nil && !accepted.Has(g.Executables["sealiftd"]) {
		return true // judgePrograms said so
	}
	a.affirm(Executables, "agent-measured", "the kernel measured the agent at %s before it ran", a.p.Agent.Path)
	return true
}

// aggregate compares IMA's first entry with the quoted boot PCRs.
func (a *appraisal) aggregate() bool {
	e := &a.ima[0]
	b, err := tpm.ParseBank(e.Algorithm)
	if err != nil || e.Violation || e.Name != imalog.AggregateName || !slices.Contains(a.quote.banks(), b) {
		return false
	}
	return bytes.Equal(e.Digest, imalog.Aggregate(a.pcrs, b))
}
