package trust

import (
	_ "embed"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealift/sealift/attest/certificate"
)

// Example is a commented policy that means what an empty one means, but for the
// CA and the hosts it names.
//
//go:embed example.yaml
var Example string

// Print gives the effective policy, every key with its value: what was missing
// in the file stands there as what it means. Parse reads it again as the same
// policy, given the CAs' certificates.
func (p *Policy) Print() string {
	var b strings.Builder
	b.WriteString("version: 1\n")
	for _, l := range []struct {
		key  string
		list []Authority
	}{{"ca", p.CAs}, {"owner", p.Owners}} {
		if len(l.list) == 0 {
			continue
		}
		b.WriteString(l.key + ":\n")
		for _, a := range l.list {
			fmt.Fprintf(&b, "  - name: %s\n", quoted(a.Name))
			if l.key == "ca" {
				names := make([]string, len(a.Classes))
				for i, c := range a.Classes {
					names[i] = string(c)
				}
				fmt.Fprintf(&b, "    classes: %s\n", words(names))
			}
			revocation := "required"
			if !a.Revocation {
				revocation = "none"
			}
			fmt.Fprintf(&b, "    revocation: %s\n", revocation)
			for _, c := range a.Certificates {
				fmt.Fprintf(&b, "    # sha256:%s\n", certificate.Fingerprint(c))
			}
			b.WriteString("    pem: |\n")
			for _, c := range a.Certificates {
				for _, line := range strings.Split(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))), "\n") {
					fmt.Fprintf(&b, "      %s\n", line)
				}
			}
		}
	}
	top := []entry{{"hosts", p.Hosts}, {"bank", p.Bank}, {"require", p.Require}}
	for _, e := range top {
		b.WriteString(e.line(""))
	}
	o, g, i, c := p.Boot, p.Agent, p.IMA, p.Containers
	for _, s := range []section{
		{"freshness", []entry{{"without-nonce", p.Nonce}, {"max-age", p.MaxAge}, {"clock-skew", p.ClockSkew}}},
		{"log", []entry{{"states", p.LogStates}, {"acknowledged", p.Acknowledged}, {"forgotten", p.Forgotten}, {"container-view", p.Views}, {"unknown-records", p.UnknownRecords}}},
		{"boot", []entry{{"unmeasured", o.Unmeasured}, {"secure-boot", o.SecureBoot}, {"applications", o.Applications}, {"files", o.Files},
			{"initrds", o.Initrds}, {"command-line", o.CommandLine}, {"contains", o.Contains}, {"forbids", o.Forbids}}},
		{"agent", []entry{{"self-reported", g.SelfReported}, {"path", g.Path}, {"executables", g.Executables}, {"policy-sets", g.PolicySets}}},
		{"ima", []entry{{"policies", i.Policies}, {"files", i.Files}, {"others", i.Others}, {"data", i.Data}, {"violations", i.Violations}, {"padded", i.Padded}}},
		{"containers", []entry{{"images", c.Images}, {"policies", c.Policies}, {"bindings", c.Bindings}, {"would-refuse", c.WouldRefuse},
			{"unmeasured", c.Unmeasured}, {"violations", c.Violations}, {"bypass", c.Bypass}, {"unproven", c.Unproven}}},
	} {
		b.WriteString(s.name + ":\n")
		for _, e := range s.entries {
			b.WriteString(e.line("  "))
		}
	}
	return b.String()
}

type section struct {
	name    string
	entries []entry
}

type entry struct {
	key   string
	value any
}

func (e entry) line(indent string) string {
	switch v := e.value.(type) {
	case Set:
		return indent + e.key + ": " + v.yaml() + "\n"
	case []string:
		return indent + e.key + ": " + words(v) + "\n"
	case time.Duration:
		return indent + e.key + ": " + v.String() + "\n"
	case map[string]Set:
		out := indent + e.key + ":"
		if len(v) == 0 {
			return out + " {}\n"
		}
		out += "\n"
		for _, name := range programs {
			if s, ok := v[name]; ok {
				out += indent + "  " + name + ": " + s.yaml() + "\n"
			}
		}
		return out
	}
	return indent + e.key + ": " + quoted(fmt.Sprint(e.value)) + "\n"
}

func (s Set) yaml() string {
	if s.Any {
		return "any"
	}
	return words(s.Values)
}

func words(list []string) string {
	out := slices.Clone(list)
	for i, s := range out {
		out[i] = quoted(s)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// quoted writes a string so that YAML reads it as that string.
func quoted(s string) string {
	var n yaml.Node
	plain := !strings.ContainsAny(s, ",[]{}:#\"'\\\n") && s != "any" && yaml.Unmarshal([]byte(s), &n) == nil &&
		len(n.Content) == 1 && n.Content[0].Tag == "!!str" && n.Content[0].Value == s
	if plain && s != "on" && s != "off" {
		return s
	}
	return fmt.Sprintf("%q", s)
}
