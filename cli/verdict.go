package cli

import (
	"fmt"
	"strings"

	"github.com/sealift/sealift/attest/verify"
)

// marks stand before what was judged.
var marks = map[verify.Status]string{
	verify.Affirming: "✓", verify.Warning: "!", verify.Contraindicated: "✗", verify.None: "·",
}

var resultWords = map[verify.Result]string{verify.Trusted: "trusted", verify.NotTrusted: "NOT TRUSTED", verify.Unusable: "unusable"}

// showVerdict prints a claim a block: what was found, worst first, and whose
// word it rests on.
func (a *app) showVerdict(v *verify.Verdict) error {
	var b strings.Builder
	host := v.Host
	if host == "" {
		host = "host"
	}
	fmt.Fprintf(&b, "%s: %s\n", host, resultWords[v.Result])
	for _, c := range v.Claims {
		fmt.Fprintf(&b, "%s %-18s %s\n", marks[c.Status], c.Name, c.Status)
		for _, r := range c.Reasons {
			writeReason(&b, "    ", r)
		}
		if len(c.RestsOn) > 0 && (c.Status == verify.Affirming || c.Status == verify.Warning) {
			fmt.Fprintf(&b, "    rests on: %s\n", strings.Join(c.RestsOn, "; "))
		}
	}
	if v.Proven > 0 {
		fmt.Fprintf(&b, "log: records 1 to %d of epoch %.12s are proven", v.Proven, v.Epoch)
		if v.Unproven > 0 {
			fmt.Fprintf(&b, "; %d later ones claim nothing", v.Unproven)
		}
		if v.Closed > 0 {
			fmt.Fprintf(&b, "; %d are closed, of %d other tenants", v.Closed, v.Tenants)
		}
		b.WriteByte('\n')
	}
	_, err := fmt.Fprint(a.out, printable(b.String()))
	return err
}

func writeReason(b *strings.Builder, indent string, r verify.Reason) {
	fmt.Fprintf(b, "%s%s %s\n", indent, marks[r.Status], oneLine(r.Message))
	if r.Hint != "" && r.Status != verify.Affirming {
		fmt.Fprintf(b, "%s  hint: %s\n", indent, oneLine(r.Hint))
	}
}

// oneLine keeps what comes from a host from looking like lines of ours.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

// showTree draws what stands on what.
func (a *app) showTree(v *verify.Verdict) error {
	var b strings.Builder
	t := v.Tree()
	fmt.Fprintf(&b, "%s %s  %s\n", marks[t.Status], t.Name, resultWords[v.Result])
	branches(&b, "", t)
	_, err := fmt.Fprint(a.out, printable(b.String()))
	return err
}

func branches(b *strings.Builder, indent string, n *verify.Node) {
	for i, c := range n.Children {
		fork, down := "├─ ", "│  "
		if i == len(n.Children)-1 {
			fork, down = "└─ ", "   "
		}
		fmt.Fprintf(b, "%s%s%s %s", indent, fork, marks[c.Status], oneLine(c.Name))
		if c.Detail != "" {
			fmt.Fprintf(b, "  %s", oneLine(c.Detail))
		}
		b.WriteByte('\n')
		under := indent + down + "   "
		if len(c.Children) > 0 {
			under = indent + down + "│  "
		}
		for _, r := range c.Reasons {
			if r.Status != verify.Affirming || len(c.Reasons) == 1 {
				fmt.Fprintf(b, "%s%s\n", under, oneLine(r.Message))
			}
		}
		branches(b, indent+down, c)
	}
}
