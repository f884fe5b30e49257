package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/node"
)

const (
	runOrdinary = "ctr run --rm --runtime " + node.Sealift + " " + image.TinyName + " %s cat /etc/motd"
	pcrread     = "tpm2_pcrread -T " + node.TCTI + " sha256:13"
	motd        = "an ordinary container"
)

func run(ctx context.Context, w io.Writer, line node.Line) (err error) {
	fmt.Fprintf(w, "Sealift, step by step, on a Debian 13 of its own inside this machine (containerd %s,\na TPM in software). Nothing of it stays.\n", line)
	tiny, err := made.Image(ctx, "tiny", image.Tiny)
	if err != nil {
		return err
	}
	n, err := node.New(ctx, node.Options{Name: "demo", Line: line})
	if err != nil {
		return err
	}
	s := &stage{w: w, n: n}
	defer func() {
		if err != nil {
			n.DumpLogs(w)
		}
		err = errors.Join(err, n.Close())
		if err == nil {
			fmt.Fprintln(w, "\nAll as promised, and all of it is gone again.")
		}
	}()
	p := &play{stage: s, tiny: tiny}
	for _, act := range []func(context.Context) error{
		p.doctor, p.imports, p.enrols, p.runs, p.log, p.verifies, p.attests, p.tampers, p.refuses, p.audits, p.tampered, p.restores, p.verifies, p.judges,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return s.result()
}

type play struct {
	*stage
	tiny *image.Image
	// file is the victim in the unpacked layer; wanted and found are its
	// digests before and after.
	file, wanted, found string
}

func (p *play) doctor(ctx context.Context) error {
	p.say("What can this machine hold?")
	out, ok := p.shell(ctx, "sealift doctor")
	p.expect("the doctor finds nothing that stops a start", ok)
	p.expect("and calls the TPM what it is", strings.Contains(strings.ToLower(out), "software"))
	return nil
}

func (p *play) imports(ctx context.Context) error {
	p.say("An ordinary image comes to an ordinary containerd.")
	if err := p.n.Import(ctx, p.tiny); err != nil {
		return err
	}
	out, _ := p.shell(ctx, "ctr image ls | cut -c1-100")
	p.expect("containerd has it", strings.Contains(out, image.TinyName))
	return nil
}

func (p *play) runs(ctx context.Context) error {
	p.say("It runs as always; only the runtime's name is another.")
	out, ok := p.shell(ctx, fmt.Sprintf(runOrdinary, "first"))
	p.expect("it runs and prints its greeting", ok && strings.TrimSpace(out) == motd)
	return nil
}

func (p *play) log(ctx context.Context) error {
	p.say("What was measured before its first instruction is in the log.")
	out, ok := p.shell(ctx, "sealift log")
	p.expect("the launch is recorded, with its image", ok && strings.Contains(out, "default/first") && strings.Contains(out, image.TinyName))
	return nil
}

var pcrLine = regexp.MustCompile(`13\s*: 0x([0-9A-Fa-f]{64})`)

func (p *play) verifies(ctx context.Context) error {
	p.say("The log, replayed from its first record, must give what the TPM holds.")
	read, ok := p.shell(ctx, pcrread)
	m := pcrLine.FindStringSubmatch(read)
	if !ok || m == nil {
		p.expect("tpm2_pcrread reads the PCR", false)
		return nil
	}
	p.expect("the PCR has been extended", strings.Trim(m[1], "0") != "")
	out, ok := p.shell(ctx, "sealift log --verify")
	p.expect("the replay equals the PCR", ok && strings.Contains(strings.ToLower(out), strings.ToLower(m[1])))
	return nil
}

func (p *play) tampers(ctx context.Context) error {
	p.say("Somebody changes one byte of the unpacked image, and puts size and time back.")
	out, err := p.n.Shell(ctx, "ls /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/etc/motd")
	if err != nil {
		return err
	}
	p.file = strings.TrimSpace(out)
	if p.wanted, err = p.digest(ctx); err != nil {
		return err
	}
	if _, err := p.n.Shell(ctx, "cp -p "+p.file+" /srv/original"); err != nil {
		return err
	}
	_, ok := p.shell(ctx, fmt.Sprintf("cd $(dirname %s); printf A | dd of=motd conv=notrunc status=none; touch -r /srv/original motd; cat motd", p.file))
	if p.found, err = p.digest(ctx); err != nil {
		return err
	}
	p.expect("the file is another", ok && p.found != p.wanted)
	return nil
}

func (p *play) digest(ctx context.Context) (string, error) {
	out, err := p.n.Run(ctx, "sha256sum", p.file)
	if err != nil {
		return "", err
	}
	return strings.Fields(out)[0], nil
}

func (p *play) refuses(ctx context.Context) error {
	p.say("The same container again. (The stock runtime would start it: containerd checks at pull, and never again.)")
	out, ok := p.shell(ctx, strings.Replace(fmt.Sprintf(runOrdinary, "stock"), node.Sealift, node.Stock, 1))
	p.expect("the stock runtime starts it", ok && strings.TrimSpace(out) == "An ordinary container")
	out, ok = p.shell(ctx, fmt.Sprintf(runOrdinary, "second"))
	p.expect("Sealift refuses", !ok && !strings.Contains(out, "ordinary container"))
	p.expect("it names the layer", strings.Contains(out, p.tiny.DiffIDs[0].String()))
	p.expect("it names the file", strings.Contains(out, "etc/motd"))
	p.expect("it names the digest wanted and the one found", strings.Contains(out, p.wanted) && strings.Contains(out, p.found))
	out, _ = p.shell(ctx, "ctr task ls; ls -A /run/sealift/bundles/default 2>/dev/null")
	p.expect("nothing was created", !strings.Contains(out, "second"))
	return nil
}

func (p *play) audits(ctx context.Context) error {
	p.say("In audit mode (a policy that names this very image by its digest) it runs, and the log says what it thinks.")
	err := p.n.WritePolicy(ctx, "demo.yaml", fmt.Sprintf(`apiVersion: sealift.dev/v1
kind: WorkloadPolicy
metadata: {name: demo}
spec:
  match:
    namespaces: [default]
    images: [{digest: %q}]
  content: audit
`, p.tiny.Manifest))
	if err != nil {
		return err
	}
	p.shell(ctx, "cat /etc/sealift/policy.d/demo.yaml; sealift policy check")
	out, ok := p.shell(ctx, fmt.Sprintf(runOrdinary, "third"))
	p.expect("it runs, changed as it is", ok && strings.Contains(out, "An ordinary container"))
	out, ok = p.shell(ctx, "sealift log default/third")
	p.expect("the log says that it would have been refused", ok && strings.Contains(out, "would have been refused"))
	return p.n.RemovePolicy(ctx, "demo.yaml")
}

func (p *play) restores(ctx context.Context) error {
	p.say("The byte is put back. No reboot, no new pull: what is right again starts again.")
	p.shell(ctx, fmt.Sprintf("cp -p /srv/original %s", p.file))
	out, ok := p.shell(ctx, fmt.Sprintf(runOrdinary, "fourth"))
	p.expect("it runs", ok && strings.TrimSpace(out) == motd)
	return nil
}
