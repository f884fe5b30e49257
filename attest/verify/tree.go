package verify

import (
	"fmt"
	"slices"
	"strings"
)

// Node is one node of a verdict drawn as what stands on what: the TPM, firmware,
// kernel, Sealift, its policy, and the containers.
type Node struct {
	Name, Detail string
	Status       Status
	// Reasons are the findings about it, worst first.
	Reasons  []Reason
	Children []*Node
}

// parts says which node a finding is drawn at; what is not listed is Sealift's,
// findings about the file system are the containers'.
var parts = map[string]string{
	"boot-unmeasured": "firmware", "boot-log": "firmware", "boot-log-data": "firmware", "boot-log-malformed": "firmware",
	"secure-boot": "firmware", "boot-application": "firmware",
	"boot-file": "kernel", "initrd": "kernel", "command-line": "kernel", "command-line-lacks": "kernel", "command-line-holds": "kernel",
	"ima-log": "kernel", "ima-log-malformed": "kernel", "ima-policy": "kernel", "ima-aggregate": "kernel", "ima-padded": "kernel",
	"ima-violation": "kernel", "ima-others": "kernel", "kexec": "kernel",
	"policy-set": "policy",
}

// Tree draws the verdict. A node without a finding has status None: nothing is
// known of it, or nothing was looked at.
func (v *Verdict) Tree() *Node {
	name := v.Host
	if name == "" {
		name = "host"
	}
	node := map[string]*Node{}
	add := func(name, detail string, below *Node) *Node {
		n := &Node{Name: name, Detail: detail, Status: None}
		node[name] = n
		below.Children = append(below.Children, n)
		return n
	}
	root := &Node{Name: name, Detail: string(v.Result), Status: Affirming}
	if v.Result != Trusted {
		root.Status = Contraindicated
	}
	add("TPM", v.Class, root)
	firmware := add("firmware", v.firmware(), root)
	kernel := add("kernel", v.kernel(), firmware)
	sealift := add("Sealift", v.agent(), kernel)
	pol := add("policy", "", sealift)
	containers := add("containers", v.shown(), pol)

	of := map[string]*Node{}
	for i := range v.Containers {
		c := &v.Containers[i]
		key := c.Namespace + "/" + c.ID
		if of[key] == nil {
			detail := strings.TrimSpace(c.State + "  " + c.Image)
			if c.Count > 1 {
				detail += fmt.Sprintf(", and %d like it before", c.Count-1)
			}
			of[key] = &Node{Name: key, Detail: detail, Status: Affirming}
			containers.Children = append(containers.Children, of[key])
		}
	}
	for _, c := range v.Claims {
		for _, r := range c.Reasons {
			at := node["Sealift"]
			switch part, ok := parts[r.Code]; {
			case c.Name == FileSystem && of[r.Subject] != nil:
				at = of[r.Subject]
			case ok:
				at = node[part]
			case c.Name == FileSystem:
				at = containers
			case c.Name == Identity && r.Code != "channel-key" || c.Name == Hardware || c.Name == Freshness:
				at = node["TPM"]
			}
			at.take(r)
		}
	}
	return root
}

// take adds a finding; "not judged" is no finding where there is another.
func (n *Node) take(r Reason) {
	if r.Code == "not-judged" && len(n.Reasons) > 0 || slices.ContainsFunc(n.Reasons, func(o Reason) bool { return o.Code == r.Code && o.Message == r.Message }) {
		return
	}
	if len(n.Reasons) == 1 && n.Reasons[0].Code == "not-judged" {
		n.Reasons = nil
	}
	if len(n.Reasons) == 0 && n.Status == None {
		n.Status = r.Status
	} else if rank(r.Status) < rank(n.Status) {
		n.Status = r.Status
	}
	n.Reasons = append(n.Reasons, r)
	slices.SortStableFunc(n.Reasons, func(a, b Reason) int { return rank(a.Status) - rank(b.Status) })
}

func (v *Verdict) firmware() string {
	switch b := v.Boot; {
	case b == nil:
		return ""
	case !b.Measured:
		return "not measured"
	case b.SecureBoot != nil && *b.SecureBoot:
		return "Secure Boot on"
	}
	return "Secure Boot off"
}

func (v *Verdict) kernel() string {
	if v.Boot == nil || len(v.Boot.CommandLines) == 0 {
		return ""
	}
	return v.Boot.CommandLines[len(v.Boot.CommandLines)-1]
}

func (v *Verdict) agent() string {
	if v.Agent == nil {
		return ""
	}
	return strings.TrimSpace(v.Agent.Build + "  sealiftd " + short(v.Agent.Executables["sealiftd"]))
}

func (v *Verdict) shown() string {
	if v.Proven == 0 {
		return ""
	}
	out := fmt.Sprintf("records 1 to %d", v.Proven)
	if v.Unproven > 0 {
		out += fmt.Sprintf(", %d later ones claim nothing", v.Unproven)
	}
	if v.Closed > 0 {
		out += fmt.Sprintf(", %d of others closed", v.Closed)
	}
	return out
}
