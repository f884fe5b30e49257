package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/sealift/sealift/measure/eventlog"
)

// recordText is one record as one line for a person, with the reasons of a
// refusal on lines of their own.
func recordText(seq uint64, r *eventlog.Record) string {
	who := "node"
	switch {
	case r.Container != "":
		who = r.Namespace + "/" + r.Container
	case r.Namespace != "":
		who = r.Namespace
	}
	line := fmt.Sprintf("%6d  %s  %-20s  %-11s %s", seq, r.Time.UTC().Format(time.DateTime), who, r.Type, summary(r))
	return strings.TrimRight(printable(line), " ")
}

// The bodies below name of each what a person wants to see first; the whole of
// it is in --json.
type launchBody struct {
	Image *struct{ Name, Manifest string }
	Root  struct {
		Kind, Class, Upper string
		Layers             []struct{}
	}
	Binds, Hooks []struct{}
	Checkpoint   bool
	Policy       struct{ Content, Level string }
	Reasons      []reasonBody
	WouldRefuse  []reasonBody `json:"would_refuse"`
	MoreReasons  int          `json:"more_reasons"`
}

type reasonBody struct{ Code, Subject, Layer, Path, Message, Wanted, Found string }

func (r reasonBody) String() string {
	var b strings.Builder
	if r.Layer != "" {
		fmt.Fprintf(&b, "layer %s: ", short(r.Layer))
	}
	if r.Path != "" {
		fmt.Fprintf(&b, "%q: ", r.Path)
	} else if r.Subject != "" {
		b.WriteString(r.Subject + ": ")
	}
	b.WriteString(r.Message)
	if r.Wanted != "" || r.Found != "" {
		fmt.Fprintf(&b, ": wanted %s, found %s", dash(short(r.Wanted)), dash(short(r.Found)))
	}
	return b.String()
}

func summary(r *eventlog.Record) string {
	switch r.Type {
	case "launch", "refusal":
		var b launchBody
		if json.Unmarshal(r.Body, &b) == nil {
			return launchSummary(b)
		}
	case "started", "exec", "exec-exit", "exit", "deleted", "update", "checkpoint", "create-failed", "vanished":
		var b struct {
			Exec, Path string
			PID        uint32
			Status     *uint32
		}
		if json.Unmarshal(r.Body, &b) == nil {
			var parts []string
			if b.Exec != "" {
				parts = append(parts, b.Exec)
			}
			if b.PID != 0 {
				parts = append(parts, fmt.Sprintf("pid %d", b.PID))
			}
			if b.Status != nil {
				parts = append(parts, fmt.Sprintf("status %d", *b.Status))
			}
			if b.Path != "" {
				parts = append(parts, b.Path)
			}
			return strings.Join(parts, ", ")
		}
	case "agent-start":
		var b struct {
			Build, Vouched string
			TPM            struct{ Class string }
			Policies       []namedBody
		}
		if json.Unmarshal(r.Body, &b) == nil {
			return fmt.Sprintf("sealiftd %s (%s), %s TPM, %s", b.Build, b.Vouched, b.TPM.Class, policyNames(b.Policies))
		}
	case "running":
		var b struct{ Containers []string }
		if json.Unmarshal(r.Body, &b) == nil {
			return "ran already: " + strings.Join(b.Containers, ", ")
		}
	case "policy":
		var b struct{ Policies []namedBody }
		if json.Unmarshal(r.Body, &b) == nil {
			return policyNames(b.Policies)
		}
	case "reference":
		var b struct {
			Name     string
			Version  uint64
			SignedBy []string `json:"signed_by"`
		}
		if json.Unmarshal(r.Body, &b) == nil {
			return fmt.Sprintf("%s version %d imported, signed by %s", b.Name, b.Version, strings.Join(b.SignedBy, ", "))
		}
	case "census":
		var b struct {
			Launched  int
			Bypassing []struct{ Namespace, ID, Runtime string }
			More      int
		}
		if json.Unmarshal(r.Body, &b) == nil {
			s := fmt.Sprintf("%d through Sealift, %d not", b.Launched, len(b.Bypassing)+b.More)
			for _, x := range b.Bypassing {
				s += fmt.Sprintf("\n          not through Sealift: %s/%s (%s)", x.Namespace, x.ID, x.Runtime)
			}
			return s
		}
	}
	if text, ok := logSummary(r); ok {
		return text
	}
	return cut(string(r.Body), 100)
}

type namedBody struct{ Name string }

func policyNames(list []namedBody) string {
	if len(list) == 0 {
		return "no policies"
	}
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.Name
	}
	return count(len(list), "policy", "policies") + ": " + strings.Join(names, ", ")
}

// count is n with the word for it.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func launchSummary(b launchBody) string {
	var parts []string
	if b.Image != nil {
		parts = append(parts, b.Image.Name+" "+short(b.Image.Manifest))
	} else {
		parts = append(parts, "no image")
	}
	if n := len(b.Root.Layers); n > 0 {
		parts = append(parts, count(n, "layer", "layers"))
	}
	if b.Root.Class != "" {
		parts = append(parts, "binding "+b.Root.Class)
	}
	if n := len(b.Binds) + len(b.Hooks); n > 0 {
		parts = append(parts, count(n, "bind or hook", "binds and hooks"))
	}
	if b.Checkpoint {
		parts = append(parts, "restored from a checkpoint")
	}
	if b.Policy.Content != "" {
		parts = append(parts, "content "+b.Policy.Content)
	}
	s := strings.Join(parts, ", ")
	for _, list := range []struct {
		what    string
		reasons []reasonBody
	}{{"refused", b.Reasons}, {"would have been refused", b.WouldRefuse}} {
		for _, r := range list.reasons {
			s += fmt.Sprintf("\n          %s: %s", list.what, r)
		}
	}
	if b.MoreReasons > 0 {
		s += fmt.Sprintf("\n          … and %d more", b.MoreReasons)
	}
	return s
}

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
