package trust

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/internal/strictyaml"
)

// MaxFile bounds a trust policy and a file it names.
const MaxFile = 4 << 20

// Load reads a trust policy from a file. Files it names are taken relative to it.
func Load(file string) (*Policy, error) {
	data, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	return Parse(file, data, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		data, err := read(name)
		if err == nil && len(data) > MaxFile {
			err = fmt.Errorf("%s: longer than %d bytes", name, MaxFile)
		}
		return data, err
	})
}

// read gives a file's content, of one that is too long a byte more than may be.
func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	return io.ReadAll(io.LimitReader(f, MaxFile+1))
}

// Parse reads a trust policy; read gives the content of files it names. The
// error is a strictyaml.Errors that lists everything wrong.
func Parse(file string, data []byte, read func(name string) ([]byte, error)) (*Policy, error) {
	d := newDecoder(file, read)
	p := &Policy{Bank: "sha256", MaxAge: 5 * time.Minute, LogStates: []string{"trusted", "recovered"}}
	if len(data) > MaxFile {
		d.Fail(nil, "", "", "%d bytes are more than %d", len(data), MaxFile)
		return nil, d.Errors
	}
	if n := d.Document(data); n != nil {
		d.policy(n, p)
	}
	if len(d.Errors) > 0 {
		return nil, d.Errors
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
	d.Mapping(n, "", []field{
		{Name: "version", Read: func(n *yaml.Node, at string) {
			version = true
			if n.Value != "1" {
				d.Fail(n, at, "this program reads version: 1", "version %q is not known", n.Value)
			}
		}},
		{Name: "ca", Read: func(n *yaml.Node, at string) { p.CAs = d.authorities(n, at, true) }},
		{Name: "owner", Read: func(n *yaml.Node, at string) { p.Owners = d.authorities(n, at, false) }},
		{Name: "hosts", Read: d.set(&p.Hosts, "")},
		{Name: "bank", Read: d.word(&p.Bank, []string{"sha256", "sha384", "sha512"})},
		{Name: "require", Read: d.words(&p.Require, Claims)},
		{Name: "freshness", Read: func(n *yaml.Node, at string) {
			d.Mapping(n, at, []field{
				{Name: "without-nonce", Read: d.answer(&p.Nonce)},
				{Name: "max-age", Read: d.duration(&p.MaxAge)},
				{Name: "clock-skew", Read: d.duration(&p.ClockSkew)},
			})
		}},
		{Name: "log", Read: func(n *yaml.Node, at string) {
			d.Mapping(n, at, []field{
				{Name: "states", Read: d.words(&p.LogStates, []string{"trusted", "recovered", "foreign", "history-lost", "tpm-reset"})},
				{Name: "acknowledged", Read: d.answer(&p.Acknowledged)},
				{Name: "container-view", Read: d.answer(&p.Views)},
				{Name: "forgotten", Read: d.answer(&p.Forgotten)},
				{Name: "unknown-records", Read: d.answer(&p.UnknownRecords)},
			})
		}},
		{Name: "boot", Read: func(n *yaml.Node, at string) {
			b := &p.Boot
			d.Mapping(n, at, []field{
				{Name: "unmeasured", Read: d.answer(&b.Unmeasured)},
				{Name: "secure-boot", Read: d.word(&b.SecureBoot, []string{"on", "any"})},
				{Name: "applications", Read: d.set(&b.Applications, digestForm)},
				{Name: "files", Read: d.set(&b.Files, digestForm)},
				{Name: "initrds", Read: d.set(&b.Initrds, digestForm)},
				{Name: "command-line", Read: d.set(&b.CommandLine, "")},
				{Name: "contains", Read: d.texts(&b.Contains)},
				{Name: "forbids", Read: d.texts(&b.Forbids)},
			})
		}},
		{Name: "agent", Read: func(n *yaml.Node, at string) {
			a := &p.Agent
			d.Mapping(n, at, []field{
				{Name: "self-reported", Read: d.answer(&a.SelfReported)},
				{Name: "path", Read: d.text(&a.Path)},
				{Name: "executables", Read: func(n *yaml.Node, at string) { a.Executables = d.executables(n, at) }},
				{Name: "policy-sets", Read: d.set(&a.PolicySets, "")},
			})
		}},
		{Name: "ima", Read: func(n *yaml.Node, at string) {
			i := &p.IMA
			d.Mapping(n, at, []field{
				{Name: "policies", Read: d.texts(&i.Policies)},
				{Name: "files", Read: d.set(&i.Files, digestForm)},
				{Name: "others", Read: d.answer(&i.Others)},
				{Name: "data", Read: d.texts(&i.Data)},
				{Name: "violations", Read: d.answer(&i.Violations)},
				{Name: "padded", Read: d.answer(&i.Padded)},
			})
		}},
		{Name: "containers", Read: func(n *yaml.Node, at string) {
			c := &p.Containers
			d.Mapping(n, at, []field{
				{Name: "images", Read: d.set(&c.Images, digestForm)},
				{Name: "policies", Read: d.set(&c.Policies, "")},
				{Name: "bindings", Read: d.words(&c.Bindings, []string{"verity", "blob", "tree", "none"})},
				{Name: "would-refuse", Read: d.answer(&c.WouldRefuse)},
				{Name: "unmeasured", Read: d.answer(&c.Unmeasured)},
				{Name: "violations", Read: d.answer(&c.Violations)},
				{Name: "bypass", Read: d.answer(&c.Bypass)},
				{Name: "unproven", Read: d.answer(&c.Unproven)},
			})
		}},
	})
	for _, dir := range p.IMA.Data {
		if !strings.HasPrefix(dir, "/") || !strings.HasSuffix(dir, "/") || dir == "/" {
			d.Fail(n, "ima.data", "as in data: [/var/log/]", "%q is not a directory's path between slashes", dir)
		}
	}
	if !version && len(d.Errors) == 0 {
		d.Fail(n, "version", "write version: 1", "is missing")
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
		fields = append(fields, field{Name: name, Read: func(n *yaml.Node, at string) {
			var s Set
			d.set(&s, digestForm)(n, at)
			out[name] = s
		}})
	}
	d.Mapping(n, at, fields)
	return out
}

// authorities reads CAs; those of attestation keys name the classes they are
// believed about.
func (d *decoder) authorities(n *yaml.Node, at string, classes bool) []Authority {
	var out []Authority
	d.List(n, at, func(n *yaml.Node, at string) {
		a := Authority{Revocation: true}
		var words []string
		var revocation string
		fields := []field{
			{Name: "name", Read: d.text(&a.Name)},
			{Name: "pem", Read: func(n *yaml.Node, at string) { a.Certificates = d.certificates(n, at, []byte(n.Value)) }},
			{Name: "file", Read: func(n *yaml.Node, at string) {
				var name string
				d.text(&name)(n, at)
				if name == "" {
					return
				}
				data, err := d.open(name)
				if err != nil {
					d.Fail(n, at, "paths are relative to the policy's own directory", "%v", err)
					return
				}
				a.Certificates = d.certificates(n, at, data)
			}},
			{Name: "revocation", Read: d.word(&revocation, []string{"required", "none"})},
		}
		if classes {
			fields = append(fields, field{Name: "classes", Read: d.words(&words, classNames())})
		}
		if !d.Mapping(n, at, fields) {
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
			d.Fail(n, at, "a name is what verdicts and revocation: none refer to", "has no name")
		}
		if len(a.Certificates) == 0 && len(d.Errors) == 0 {
			d.Fail(n, at, "give pem: or file:", "has no certificate")
		}
		if slices.ContainsFunc(out, func(o Authority) bool { return o.Name == a.Name }) {
			d.Fail(n, at, "", "the name %q is given twice", a.Name)
		}
		for _, o := range out {
			if slices.ContainsFunc(a.Certificates, func(c *x509.Certificate) bool { return slices.ContainsFunc(o.Certificates, c.Equal) }) {
				d.Fail(n, at, "say once what it is believed about", "the CA %q has a certificate of %q too", a.Name, o.Name)
			}
		}
		out = append(out, a)
	})
	if len(out) == 0 && len(d.Errors) == 0 {
		d.Fail(n, at, "remove the key, or name a CA", "is an empty list")
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
			d.Fail(n, at, "only certificates belong here", "holds a PEM block %q", block.Type)
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			d.Fail(n, at, "", "certificate: %v", err)
			continue
		}
		if !c.IsCA {
			d.Fail(n, at, "name the CA's certificate, not one it issued", "certificate %q is not a CA's", c.Subject)
			continue
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		d.Fail(n, at, "PEM begins with -----BEGIN CERTIFICATE-----", "holds no CA certificate")
	}
	return out
}

func (d *decoder) set(into *Set, form string) strictyaml.Read {
	return func(n *yaml.Node, at string) {
		if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value == "any" {
			into.Any = true
			return
		}
		into.Values = []string{}
		d.List(n, at, func(n *yaml.Node, at string) {
			s, ok := d.String(n, at)
			if !ok {
				return
			}
			if form != "" && !regexp.MustCompile(form).MatchString(s) {
				d.Fail(n, at, "wanted sha256: and 64 digits of lower-case hex", "%q is not a digest", s)
				return
			}
			into.Values = append(into.Values, s)
		})
	}
}
