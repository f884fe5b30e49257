package verify

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sealift/sealift/measure/eventlog"
)

// maxEnded bounds the ended containers that are remembered by name because
// something was wrong with them, and the kinds of all others that have ended;
// what is of yet another kind is counted, and nothing is known of it.
const maxEnded = 1024

// facts is what the log's proven records say, judged by nobody yet: so a changed
// policy judges old facts anew.
type facts struct {
	Seq   uint64                   `json:"seq"`
	Blind map[string]eventlog.Hash `json:"blinds"`
	Agent *Agent                   `json:"agent"`
	Set   string                   `json:"policySet"`
	// Ran are the programs that all runs of the agent named, by name: what an
	// earlier one did stands in this log too.
	Ran   map[string][]string   `json:"ran"`
	Boxes map[string]*Container `json:"containers"`
	Ended []Container           `json:"ended"`
	Lost  uint64                `json:"endedLost"`
	// Past are the other containers that have ended, by what was the same about
	// them: what they ran and did still counts, their names do not.
	Past map[string]*Container `json:"past"`
	// Refused counts starts that were refused: the system at work, nothing ran.
	Refused uint64 `json:"refused"`
	// Bypassing are the host's containers that did not start through Sealift, also
	// those that are gone, as far as their names are remembered; Uncounted whom
	// the last census had no answer from; Unproven those that ran when the epoch began.
	Bypassing []string `json:"bypassing"`
	Uncounted []string `json:"uncounted"`
	Unproven  []string `json:"unproven"`
	Unknown   bool     `json:"unprovenUnknown"`
	// Silent counts times without records, Foreign the extends by others.
	Silent  uint64 `json:"silent"`
	Foreign uint64 `json:"foreign"`
	// Closed counts closed items by pseudonym.
	Closed map[string]uint64 `json:"closed"`
	// Strange are types of records that this program does not know.
	Strange []string `json:"strange"`
	Starts  uint64   `json:"starts"`
}

// Agent is what the agent's last start record says. ChannelKey is
// SHA-256 of the SPKI of the run's channel key.
type Agent struct {
	Seq         uint64            `json:"seq"`
	Build       string            `json:"build"`
	Executables map[string]string `json:"executables"`
	ChannelKey  string            `json:"channelKey,omitempty"`
}

// Container is one container as its records tell it.
type Container struct {
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	// Seq is the record of its launch.
	Seq   uint64 `json:"seq"`
	State string `json:"state"` // launched, started, exited, vanished, deleted, unproven
	Image string `json:"image"`
	// Manifest is what was checked; Class the weakest binding of its layers.
	Manifest string `json:"manifest"`
	Class    string `json:"class"`
	Content  string `json:"content"`
	Level    string `json:"level"`
	Policy   string `json:"policy"`
	// Set is the set of workload policies that was in effect.
	Set         string   `json:"policySet"`
	WouldRefuse []string `json:"wouldRefuse"`
	Violations  uint64   `json:"violations"`
	// Count is how many containers that have ended this one stands for; it is
	// the last of them.
	Count uint64 `json:"count,omitempty"`
}

func newFacts() *facts {
	return &facts{Blind: map[string]eventlog.Hash{}, Boxes: map[string]*Container{}, Closed: map[string]uint64{}, Past: map[string]*Container{}, Ran: map[string][]string{}}
}

func (f *facts) clone() *facts {
	c := *f
	c.Blind, c.Closed = maps.Clone(f.Blind), maps.Clone(f.Closed)
	c.Boxes = map[string]*Container{}
	for k, x := range f.Boxes {
		y := *x
		c.Boxes[k] = &y
	}
	c.Past = map[string]*Container{}
	for k, x := range f.Past {
		y := *x
		c.Past[k] = &y
	}
	c.Ran = map[string][]string{}
	for k, x := range f.Ran {
		c.Ran[k] = slices.Clone(x)
	}
	c.Ended, c.Bypassing, c.Unproven, c.Strange = slices.Clone(f.Ended), slices.Clone(f.Bypassing), slices.Clone(f.Unproven), slices.Clone(f.Strange)
	if c.Blind == nil {
		c.Blind = map[string]eventlog.Hash{}
	}
	if c.Closed == nil {
		c.Closed = map[string]uint64{}
	}
	return &c
}

// add takes in a proven batch.
func (f *facts) add(st *eventlog.Step) {
	for i := range st.Entries {
		e := &st.Entries[i]
		f.Seq = e.Seq
		if e.Record == nil {
			f.Closed[e.Pseudonym.String()]++
			continue
		}
		f.Blind[e.Record.Namespace] = e.Blind
		f.record(e)
	}
}

func (f *facts) record(e *eventlog.Entry) {
	r := e.Record
	body := object(r.Body)
	switch r.Type {
	case "agent-start":
		f.Starts++
		f.Agent = &Agent{Seq: e.Seq, Build: body.text("build"), Executables: map[string]string{}, ChannelKey: body.text("channel")}
		for _, x := range body.list("executables") {
			name, digest := x.text("name"), "sha256:"+x.text("sha256")
			f.Agent.Executables[name] = digest
			f.ran(name, digest)
		}
		f.Set = body.text("policy_set")
	case "policy":
		f.Set = body.text("set")
	case "launch":
		f.launch(e, body)
	case "refusal":
		f.Refused++
	case "started":
		f.state(r, "started")
	case "exit":
		f.state(r, "exited")
	case "vanished":
		f.state(r, "vanished")
	case "deleted", "create-failed":
		f.end(r)
	case "violation":
		if c := f.Boxes[boxKey(r)]; c != nil {
			c.Violations++
		} else {
			f.Boxes[boxKey(r)] = &Container{Namespace: r.Namespace, ID: r.Container, Seq: e.Seq, State: "unproven", Violations: 1}
		}
	case "census":
		f.Uncounted = body.texts("unanswered")
		for _, x := range body.list("bypassing") {
			if name := x.text("namespace") + "/" + x.text("id"); !slices.Contains(f.Bypassing, name) && len(f.Bypassing) < maxNames {
				f.Bypassing = append(f.Bypassing, name)
			}
		}
	case "log-unproven":
		for _, id := range body.texts("containers") {
			f.Unproven = append(f.Unproven, r.Namespace+"/"+id)
		}
		f.Unknown = f.Unknown || body.text("unknown") != ""
	case "log-unavailable":
		f.Silent++
	case "log-foreign":
		f.Foreign++
	case "agent-stop", "running", "exec", "exec-exit", "update", "checkpoint", "reference", "denied", "peer",
		"log-epoch", "log-recovered", "log-unanswered", "log-acknowledged", "log-coalesced":
	default:
		if !slices.Contains(f.Strange, r.Type) && len(f.Strange) < 64 {
			f.Strange = append(f.Strange, r.Type)
		}
	}
}

// maxNames bounds what is remembered by name to be told; one is enough to count.
const maxNames = 64

// ran remembers a program. Beyond the bound one stands for the rest: no policy
// lists it.
func (f *facts) ran(name, digest string) {
	switch old := f.Ran[name]; {
	case slices.Contains(old, digest):
	case len(old) < maxNames && len(f.Ran) <= maxNames:
		f.Ran[name] = append(old, digest)
	case !slices.Contains(f.Ran["more"], "more"):
		f.Ran["more"] = append(f.Ran["more"], "more")
	}
}

func boxKey(r *eventlog.Record) string { return r.Namespace + "/" + r.Container }

func (f *facts) launch(e *eventlog.Entry, body members) {
	r := e.Record
	image, root, pol := body.object("image"), body.object("root"), body.object("policy")
	c := &Container{
		Namespace: r.Namespace, ID: r.Container, Seq: e.Seq, State: "launched", Image: image.text("name"), Manifest: image.text("manifest"),
		Class: root.text("class"), Policy: pol.text("digest"), Content: pol.text("content"), Level: pol.text("level"), Set: f.Set,
		WouldRefuse: codes(body.list("would_refuse")),
	}
	f.end(r)
	f.Boxes[boxKey(r)] = c
}

func codes(list []members) []string {
	var out []string
	for _, x := range list {
		out = append(out, x.text("code"))
	}
	return out
}

func (f *facts) state(r *eventlog.Record, s string) {
	if c := f.Boxes[boxKey(r)]; c != nil {
		c.State = s
	}
}

// end forgets a container unless something was wrong with it while it ran.
func (f *facts) end(r *eventlog.Record) {
	c := f.Boxes[boxKey(r)]
	if c == nil {
		return
	}
	delete(f.Boxes, boxKey(r))
	c.State = "deleted"
	if (len(c.WouldRefuse) > 0 || c.Violations > 0) && len(f.Ended) < maxEnded {
		f.Ended = append(f.Ended, *c)
		return
	}
	f.past(c)
}

// tells says whether a launch of the container is on record, of now or before.
func (f *facts) tells(namespace, id string) bool {
	is := func(c *Container) bool { return c.Namespace == namespace && c.ID == id && c.State != "unproven" }
	for _, c := range f.Boxes {
		if is(c) {
			return true
		}
	}
	for _, c := range f.Past {
		if is(c) {
			return true
		}
	}
	return slices.ContainsFunc(f.Ended, func(c Container) bool { return is(&c) })
}

// past remembers what a container was that has ended, with all that ended like it.
func (f *facts) past(c *Container) {
	k := strings.Join([]string{c.Namespace, c.Image, c.Manifest, c.Class, c.Content, c.Level, c.Policy, c.Set, strconv.FormatBool(c.Violations > 0), strings.Join(c.WouldRefuse, "\x01")}, "\x00")
	count := uint64(1)
	if old := f.Past[k]; old != nil {
		count += old.Count
		c.Violations += old.Violations
	} else if len(f.Past) >= maxEnded {
		f.Lost++
		return
	}
	c.Count = count
	f.Past[k] = c
}

// members is an object of a record's body. Keys are compared exactly, and
// strings are unescaped as the log escapes them.
type members map[string]json.RawMessage

func object(b []byte) members {
	var m members
	if json.Unmarshal(b, &m) != nil {
		return nil
	}
	return m
}

func (m members) object(key string) members { return object(m[key]) }

func (m members) text(key string) string {
	var s string
	if b, ok := m[key]; !ok || eventlog.Unmarshal(b, &s) != nil {
		return ""
	}
	return s
}

func (m members) texts(key string) []string {
	var s []string
	if b, ok := m[key]; !ok || eventlog.Unmarshal(b, &s) != nil {
		return nil
	}
	return s
}

func (m members) list(key string) []members {
	var raw []json.RawMessage
	if json.Unmarshal(m[key], &raw) != nil {
		return nil
	}
	out := make([]members, len(raw))
	for i, b := range raw {
		out[i] = object(b)
	}
	return out
}
