package trust

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealift/sealift/attest/certificate"
)

// MaxFile bounds a trust policy and a file it names.
const MaxFile = 4 << 20

// Load reads a trust policy from a file. Files it names are taken relative to it.
func Load(file string) (*Policy, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	return Parse(file, data, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return os.ReadFile(name)
	})
}

// Parse reads a trust policy; read gives the content of files it names. The
// error is a policy.Errors that lists everything wrong.
func Parse(file string, data []byte, read func(name string) ([]byte, error)) (*Policy, error) {
	d := &decoder{file: file, open: read}
	p := &Policy{Bank: "sha256", MaxAge: 5 * time.Minute, LogStates: []string{"trusted", "recovered"}}
	if len(data) > MaxFile {
		d.fail(nil, "", "", "%d bytes are more than %d", len(data), MaxFile)
		return nil, d.errs
	}
	if n := d.document(data); n != nil {
		d.policy(n, p)
	}
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	p.fill()
	return p, nil
}

// Strictest is the policy that an empty file would be: it trusts nothing.
func Strictest() *Policy {
	p := &Policy{Bank: "sha256", MaxAge: 5 * time.Minute, LogStates: []string{"trusted", "recovered"}}
	p.fill()
	return p
}

// fill puts the strictest where a key is missing.
func (p *Policy) fill() {
	if p.Require == nil {
		p.Require = slices.Clone(Claims)
	}
	if p.Boot.SecureBoot == "" {
		p.Boot.SecureBoot = "on"
	}
	if p.Agent.Path == "" {
		p.Agent.Path = "/usr/local/bin/sealiftd"
	}
	if p.IMA.Policies == nil {
		p.IMA.Policies = []string{"ima_policy=tcb"}
	}
	if p.Containers.Bindings == nil {
		p.Containers.Bindings = []string{"verity", "blob"}
	}
	for _, a := range []*Answer{&p.Nonce, &p.Acknowledged, &p.Views, &p.Forgotten, &p.UnknownRecords, &p.Boot.Unmeasured, &p.Agent.SelfReported, &p.IMA.Others,
		&p.IMA.Violations, &p.IMA.Padded, &p.Containers.WouldRefuse, &p.Containers.Unmeasured, &p.Containers.Violations,
		&p.Containers.Bypass, &p.Containers.Unproven} {
		if *a == "" {
			*a = Reject
		}
	}
}

func (d *decoder) policy(n *yaml.Node, p *Policy) {
	version := false
	d.mapping(n, "", []field{
		{"version", func(n *yaml.Node, at string) {
			version = true
			if n.Value != "1" {
				d.fail(n, at, "this program reads version: 1", "version %q is not known", n.Value)
			}
		}},
		{"ca", func(n *yaml.Node, at string) { p.CAs = d.authorities(n, at, true) }},
		{"owner", func(n *yaml.Node, at string) { p.Owners = d.authorities(n, at, false) }},
		{"hosts", d.set(&p.Hosts, "")},
		{"bank", d.word(&p.Bank, []string{"sha256", "sha384", "sha512"})},
		{"require", d.words(&p.Require, Claims)},
		{"freshness", func(n *yaml.Node, at string) {
			d.mapping(n, at, []field{
				{"without-nonce", d.answer(&p.Nonce)},
				{"max-age", d.duration(&p.MaxAge)},
				{"clock-skew", d.duration(&p.ClockSkew)},
			})
		}},
		{"log", func(n *yaml.Node, at string) {
			d.mapping(n, at, []field{
				{"states", d.words(&p.LogStates, []string{"trusted", "recovered", "foreign", "history-lost", "tpm-reset"})},
				{"acknowledged", d.answer(&p.Acknowledged)},
				{"container-view", d.answer(&p.Views)},
				{"forgotten", d.answer(&p.Forgotten)},
				{"unknown-records", d.answer(&p.UnknownRecords)},
			})
		}},
		{"boot", func(n *yaml.Node, at string) {
			b := &p.Boot
			d.mapping(n, at, []field{
				{"unmeasured", d.answer(&b.Unmeasured)},
				{"secure-boot", d.word(&b.SecureBoot, []string{"on", "any"})},
				{"applications", d.set(&b.Applications, digestForm)},
				{"files", d.set(&b.Files, digestForm)},
				{"initrds", d.set(&b.Initrds, digestForm)},
				{"command-line", d.set(&b.CommandLine, "")},
				{"contains", d.texts(&b.Contains)},
				{"forbids", d.texts(&b.Forbids)},
			})
		}},
		{"agent", func(n *yaml.Node, at string) {
			a := &p.Agent
			d.mapping(n, at, []field{
				{"self-reported", d.answer(&a.SelfReported)},
				{"path", d.text(&a.Path)},
				{"executables", func(n *yaml.Node, at string) { a.Executables = d.executables(n, at) }},
				{"policy-sets", d.set(&a.PolicySets, "")},
			})
		}},
		{"ima", func(n *yaml.Node, at string) {
			i := &p.IMA
			d.mapping(n, at, []field{
				{"policies", d.texts(&i.Policies)},
				{"files", d.set(&i.Files, digestForm)},
				{"others", d.answer(&i.Others)},
				{"violations", d.answer(&i.Violations)},
				{"padded", d.answer(&i.Padded)},
			})
		}},
		{"containers", func(n *yaml.Node, at string) {
			c := &p.Containers
			d.mapping(n, at, []field{
				{"images", d.set(&c.Images, digestForm)},
				{"policies", d.set(&c.Policies, "")},
				{"bindings", d.words(&c.Bindings, []string{"verity", "blob", "tree", "none"})},
				{"would-refuse", d.answer(&c.WouldRefuse)},
				{"unmeasured", d.answer(&c.Unmeasured)},
				{"violations", d.answer(&c.Violations)},
				{"bypass", d.answer(&c.Bypass)},
				{"unproven", d.answer(&c.Unproven)},
			})
		}},
	})
	if !version && len(d.errs) == 0 {
		d.fail(n, "version", "write version: 1", "is missing")
	}
}

func classNames() []string {
	var out []string
	for _, c := range certificate.Classes {
		out = append(out, string(c))
	}
	return out
}

const digestForm = `^sha(256|384|512):[0-9a-f]{64,128}$`

var programs = []string{"sealiftd", "containerd-shim-sealift-v2", "sealift", "runc", "criu"}

func (d *decoder) executables(n *yaml.Node, at string) map[string]Set {
	out := map[string]Set{}
	var fields []field
	for _, name := range programs {
		fields = append(fields, field{name, func(n *yaml.Node, at string) {
			var s Set
			d.set(&s, digestForm)(n, at)
			out[name] = s
		}})
	}
	d.mapping(n, at, fields)
	return out
}

// authorities reads CAs; those of attestation keys name the classes they are
// believed about.
func (d *decoder) authorities(n *yaml.Node, at string, classes bool) []Authority {
	var out []Authority
	d.list(n, at, func(n *yaml.Node, at string) {
		a := Authority{Revocation: true}
		var words []string
		var revocation string
		fields := []field{
			{"name", d.text(&a.Name)},
			{"pem", func(n *yaml.Node, at string) { a.Certificates = d.certificates(n, at, []byte(n.Value)) }},
			{"file", func(n *yaml.Node, at string) {
				var name string
				d.text(&name)(n, at)
				if name == "" {
					return
				}
				data, err := d.open(name)
				if err != nil {
					d.fail(n, at, "paths are relative to the policy's own directory", "%v", err)
					return
				}
				a.Certificates = d.certificates(n, at, data)
			}},
			{"revocation", d.word(&revocation, []string{"required", "none"})},
		}
		if classes {
			fields = append(fields, field{"classes", d.words(&words, classNames())})
		}
		if !d.mapping(n, at, fields) {
			return
		}
		a.Revocation = revocation != "none"
		if classes && words == nil {
			words = []string{string(certificate.Hardware)}
		}
		for _, w := range words {
			a.Classes = append(a.Classes, certificate.Class(w))
		}
		if a.Name == "" {
			d.fail(n, at, "a name is what verdicts and revocation: none refer to", "has no name")
		}
		if len(a.Certificates) == 0 && len(d.errs) == 0 {
			d.fail(n, at, "give pem: or file:", "has no certificate")
		}
		if slices.ContainsFunc(out, func(o Authority) bool { return o.Name == a.Name }) {
			d.fail(n, at, "", "the name %q is given twice", a.Name)
		}
		out = append(out, a)
	})
	if len(out) == 0 && len(d.errs) == 0 {
		d.fail(n, at, "remove the key, or name a CA", "is an empty list")
	}
	return out
}

func (d *decoder) certificates(n *yaml.Node, at string, data []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for len(data) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			d.fail(n, at, "only certificates belong here", "holds a PEM block %q", block.Type)
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			d.fail(n, at, "", "certificate: %v", err)
			continue
		}
		if !c.IsCA {
			d.fail(n, at, "name the CA's certificate, not one it issued", "certificate %q is not a CA's", c.Subject)
			continue
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		d.fail(n, at, "PEM begins with -----BEGIN CERTIFICATE-----", "holds no CA certificate")
	}
	return out
}

func (d *decoder) set(into *Set, form string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value == "any" {
			into.Any = true
			return
		}
		into.Values = []string{}
		d.list(n, at, func(n *yaml.Node, at string) {
			s, ok := d.str(n, at)
			if !ok {
				return
			}
			if form != "" && !regexp.MustCompile(form).MatchString(s) {
				d.fail(n, at, "wanted sha256: and 64 digits of lower-case hex", "%q is not a digest", s)
				return
			}
			into.Values = append(into.Values, s)
		})
	}
}
