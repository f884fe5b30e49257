package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/policy"
)

func (a *app) policy() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "check policies and explain what they decide",
		Long: `Policies (WorkloadPolicy, in ` + policy.Dir + `/*.yaml) say how strictly a container is held. Of several that match
the strictest wins. Only a policy that selects by containerd namespace, alone or with digests or signed references, may
go below the defaults; names, labels and annotations may only tighten.`,
		Annotations: map[string]string{"see": "docs/policy.md: the language, field by field"},
		Args:        args(0, 0, ""),
		RunE:        func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.policyCheck(), a.policyExplain(), a.policySchema())
	return c
}

func (a *app) policyCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE|DIR]...",
		Short: "read policies as the agent would",
		Long: `Read policy files, or all of a directory (by default ` + policy.Dir + `), exactly as the agent would, and list
everything that is wrong with them by file and line. Files that are checked together may not bear one name. The agent
loads a directory as a whole or not at all.

With --json the answer is one object: {"ok": …, "policies": […], "errors": [{"file", "line", "field", "message", "hint"}]}.`,
		Example: `  sealift policy check
  sealift policy check ./policy.d new.yaml`,
		RunE: func(_ *cobra.Command, targets []string) error {
			if len(targets) == 0 {
				targets = []string{policy.Dir}
			}
			return a.checkPolicies(targets)
		},
	}
}

type checkedPolicy struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	Digest string `json:"digest"`
	Match  string `json:"match"`
}

type policyProblem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (a *app) checkPolicies(targets []string) error {
	set, err := loadPolicies(targets)
	problems := policy.AsErrors(err)
	if err != nil && problems == nil {
		return err
	}
	answer := struct {
		OK       bool            `json:"ok"`
		Policies []checkedPolicy `json:"policies"`
		Errors   []policyProblem `json:"errors"`
	}{OK: err == nil, Policies: []checkedPolicy{}, Errors: []policyProblem{}}
	if set != nil {
		for _, p := range set.Policies() {
			answer.Policies = append(answer.Policies, checkedPolicy{p.Name, p.File, p.Digest, p.Match.String()})
		}
	}
	for _, p := range problems {
		answer.Errors = append(answer.Errors, policyProblem{p.File, p.Line, p.Field, p.Message, p.Hint})
	}
	switch {
	case a.json:
		if err := a.object(answer); err != nil {
			return err
		}
		if !answer.OK {
			return errTold
		}
		return nil
	case !answer.OK:
		return &noError{problems}
	case len(answer.Policies) == 0:
		_, err := fmt.Fprintln(a.out, "no policy: the defaults hold")
		return err
	}
	rows := [][]string{{"POLICY", "FILE", "MATCHES"}}
	for _, p := range answer.Policies {
		rows = append(rows, []string{p.Name, p.File, p.Match})
	}
	return a.table(rows)
}

// loadPolicies reads files and directories into one set.
func loadPolicies(targets []string) (*policy.Set, error) {
	var all []*policy.Policy
	var errs policy.Errors
	for _, t := range targets {
		var got []*policy.Policy
		st, err := os.Lstat(t)
		switch {
		case errors.Is(err, fs.ErrNotExist) && t == policy.Dir:
			continue
		case err != nil:
			return nil, fmt.Errorf("policy: %w", err)
		case st.IsDir():
			var s *policy.Set
			if s, err = policy.LoadDir(t); err == nil {
				got = s.Policies()
			}
		default:
			var p *policy.Policy
			if p, err = policy.LoadFile(t); err == nil {
				got = []*policy.Policy{p}
			}
		}
		if es := policy.AsErrors(err); es != nil {
			errs = append(errs, es...)
		} else if err != nil {
			return nil, err
		}
		all = append(all, got...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return policy.NewSet(all...)
}

func (a *app) policyExplain() *cobra.Command {
	var subj policy.Subject
	var from []string
	c := &cobra.Command{
		Use:   "explain",
		Short: "show which policies match a would-be start, and what holds in the end",
		Long: `Show, for one would-be start, each policy that was considered, whether it matches and why, what it says, and the
effective policy that comes of it, in its canonical form: what is measured at a start is the digest of that form.

By default the agent answers, from the policies it has loaded and the signed references it has. With --from the named
files and directories are used instead, and no agent is needed.`,
		Example: `  sealift policy explain -n k8s.io --image registry.example/web:1 --label app=web
  sealift policy explain --from ./policy.d -n lab --digest sha256:… --signed-by release/web`,
		Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkSubject(subj); err != nil {
				return usage(c, err)
			}
			if len(from) > 0 {
				set, err := loadPolicies(from)
				if policy.AsErrors(err) != nil {
					return &noError{err}
				}
				if err != nil {
					return err
				}
				e := set.Evaluate(subj)
				return a.explain(string(e.Canonical()), e.Digest(), e.Steps)
			}
			if len(subj.Annotations) > 0 || len(subj.SignedBy) > 0 || subj.TreeDigest != "" {
				return usage(c, errors.New("--annotation, --signed-by and --tree need --from: the agent finds them out by itself"))
			}
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error { return a.explainByAgent(c.Context(), n, subj) })
		},
	}
	f := c.Flags()
	f.StringVarP(&subj.Namespace, "namespace", "n", "default", "the containerd `namespace`")
	f.StringVar(&subj.Image, "image", "", "the image's `name`")
	f.StringVar(&subj.ManifestDigest, "digest", "", "the `digest` of its manifest")
	f.StringVar(&subj.TreeDigest, "tree", "", "the tree `digest` of a rootfs without an image")
	f.StringToStringVar(&subj.Labels, "label", nil, "a label of the container, as `key=value`")
	f.StringToStringVar(&subj.Annotations, "annotation", nil, "an annotation, as `key=value`")
	f.StringSliceVar(&subj.SignedBy, "signed-by", nil, "a signed reference that lists it, as `key/bundle`")
	f.StringSliceVar(&from, "from", nil, "read policies from this `file or directory` instead of asking the agent")
	return c
}

// checkSubject refuses what no start has: nothing would match it, and the answer
// would read like one about the start that was meant.
func checkSubject(s policy.Subject) error {
	if !policy.IsNamespace(s.Namespace) {
		return fmt.Errorf("--namespace: %q is not a containerd namespace", s.Namespace)
	}
	if s.ManifestDigest != "" {
		if err := digest.Digest(s.ManifestDigest).Validate(); err != nil {
			return fmt.Errorf("--digest: %q: %w", s.ManifestDigest, err)
		}
	}
	if s.TreeDigest != "" {
		if _, err := layer.ParseTreeDigest(s.TreeDigest); err != nil {
			return fmt.Errorf("--tree: %w", err)
		}
	}
	return nil
}

func (a *app) explainByAgent(ctx context.Context, n nodev1.NodeClient, subj policy.Subject) error {
	r, err := n.ExplainPolicy(ctx, &nodev1.ExplainPolicyRequest{Namespace: subj.Namespace, Image: subj.Image, Digest: subj.ManifestDigest, Labels: subj.Labels})
	if err != nil {
		return err
	}
	return a.explain(r.GetEffective(), r.GetDigest(), r.GetSteps())
}

func (a *app) explain(effective, digest string, steps []string) error {
	if a.json {
		return a.object(struct {
			Effective string   `json:"effective"`
			Digest    string   `json:"digest"`
			Steps     []string `json:"steps"`
		}{effective, digest, steps})
	}
	for i, s := range steps {
		steps[i] = printable(s)
	}
	_, err := fmt.Fprintf(a.out, "%s\n\n%s# %s\n", strings.Join(steps, "\n"), effective, digest)
	return err
}

func (a *app) policySchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "print the JSON schema of a policy, for editors",
		Long: `Print the JSON schema (2020-12) of a WorkloadPolicy. Editors that know JSON schemas complete and check with it;
the rules that need more than a schema (who may loosen) are checked by "sealift policy check".`,
		Example: `  sealift policy schema > workloadpolicy.json`,
		Args:    args(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(policy.Schema)
			return err
		},
	}
}
