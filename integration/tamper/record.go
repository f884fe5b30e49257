package tamper

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/layer"
)

// Record is a launch or refusal in the log, as docs/event-log.md describes it:
// what of it the tests look at.
type Record struct {
	Type string `json:"-"`
	Root struct {
		Kind  string `json:"kind"`
		Upper string `json:"upper"`
		Class string `json:"class"`
		Remap struct {
			How         string `json:"how"`
			SpecialBits string `json:"special_bits"`
		} `json:"remap"`
	} `json:"root"`
	Image struct {
		Name     string `json:"name"`
		Manifest string `json:"manifest"`
	} `json:"image"`
	Binds []struct {
		Destination string `json:"destination"`
		Source      string `json:"source"`
		SHA256      string `json:"sha256"`
		CoversImage bool   `json:"covers_image"`
	} `json:"binds"`
	Hooks []struct {
		Stage  string `json:"stage"`
		Path   string `json:"path"`
		SHA256 string `json:"sha256"`
	} `json:"hooks"`
	Reasons     []Reason `json:"reasons"`
	WouldRefuse []Reason `json:"would_refuse"`
}

// Reason is why, for a program.
type Reason struct {
	Code    string `json:"code"`
	Subject string `json:"subject"`
	Path    string `json:"path"`
	Message string `json:"message"`
	Wanted  string `json:"wanted"`
	Found   string `json:"found"`
}

// String is for a test's message.
func (r *Record) String() string {
	out := fmt.Sprintf("%s (upper %s, class %s)", r.Type, r.Root.Upper, r.Root.Class)
	for _, x := range append(r.Reasons, r.WouldRefuse...) {
		out += fmt.Sprintf("\n\t%s: %s%s %s: wanted %s, found %s", x.Code, x.Subject, x.Path, x.Message, x.Wanted, x.Found)
	}
	return out
}

// words are what the agent calls the kinds of differences.
var words = map[string]string{
	layer.KindContent: "content differs", layer.KindSize: "size differs", layer.KindMode: "mode differs", layer.KindOwner: "owner differs",
	layer.KindXattr: "extended attribute differs", layer.KindLink: "link target differs", layer.KindType: "of another type",
	layer.KindAdded: "is not in the image", layer.KindMissing: "missing on disk", layer.KindHardlink: "hard links differ",
	layer.KindDevice: "device number differs", layer.KindMTime: "modification time differs", layer.KindOpaque: "opaque mark differs",
	layer.KindWhiteout: "whiteout differs", layer.KindRedirect: "overlay redirect", layer.KindMetacopy: "overlay metacopy",
	layer.KindOverlayXattr: "overlay attribute", layer.KindImplied: "an unnamed directory cannot have",
}

// Tells says whether text, an error that a person sees, names the change.
func (c Change) Tells(text string) bool {
	return strings.Contains(text, words[c.Kind]) && strings.Contains(text, fmt.Sprintf("%q", "/"+c.Path))
}

// Among says whether one of the reasons is the change.
func (c Change) Among(reasons []Reason) bool {
	for _, r := range reasons {
		if r.Path == "/"+c.Path && strings.Contains(r.Message, words[c.Kind]) {
			return true
		}
	}
	return false
}

// Find returns the newest launch or refusal of a container.
func (s *Stage) Find(ns, id string) (*Record, error) {
	var out *Record
	err := s.Log(func(r *eventlog.Record) error {
		if (r.Type != "launch" && r.Type != "refusal") || r.Namespace != ns || r.Container != id {
			return nil
		}
		out = &Record{Type: r.Type}
		return json.Unmarshal(r.Body, out)
	})
	if err == nil && out == nil {
		err = fmt.Errorf("log: no launch and no refusal of %s/%s", ns, id)
	}
	return out, err
}

// Log calls f with each record.
func (s *Stage) Log(f func(*eventlog.Record) error) error {
	lines, err := eventlog.Lines(s.Inside("/var/lib/sealift/log"), "")
	if err != nil {
		return err
	}
	for line, err := range lines {
		if err != nil {
			return err
		}
		l, err := eventlog.DecodeLine(line)
		if err != nil {
			return err
		}
		if l.Item == nil {
			continue
		}
		r, err := l.Item.Open()
		if err != nil {
			return err
		}
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}
