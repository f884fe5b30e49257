package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// object writes one JSON value on one line.
func (a *app) object(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// message writes a message of the node API as one line of JSON, with the names
// of its proto and with fields that are zero.
func (a *app) message(m proto.Message) error {
	data, err := (protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}).Marshal(m)
	if err != nil {
		return err
	}
	// protojson varies its white space on purpose; scripts get one spelling.
	return a.object(json.RawMessage(data))
}

// table writes rows in columns.
func (a *app) table(rows [][]string) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if _, err := fmt.Fprintln(w, strings.Join(r, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

// progress shows one line that changes, on a terminal; elsewhere nothing.
type progress struct {
	w     io.Writer
	shown bool
	last  time.Time
}

func (a *app) progress() *progress {
	if f, ok := a.err.(*os.File); !a.json && ok && term.IsTerminal(int(f.Fd())) {
		return &progress{w: a.err}
	}
	return &progress{}
}

// set shows label and, where total is known, a bar.
func (p *progress) set(label string, done, total int64) {
	if p.w == nil || time.Since(p.last) < 50*time.Millisecond {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.w, "\r\x1b[K%s", bar(label, done, total))
}

// clear removes the line; it may be called more than once.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

func bar(label string, done, total int64) string {
	if total <= 0 {
		return fmt.Sprintf("%s  %s", label, size(done))
	}
	const width = 24
	full := int(min(done, total) * width / total)
	return fmt.Sprintf("%s  [%s%s] %s of %s", label, strings.Repeat("#", full), strings.Repeat(".", width-full), size(done), size(total))
}

// size writes bytes for a person.
func size(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= unit && i < 3 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %s", f, [...]string{"kB", "MB", "GB", "TB"}[i])
}

// ago writes a time span for a person: "3h12m".
func ago(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return d.String()
	case d < 24*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd%dh", int(d/(24*time.Hour)), int(d%(24*time.Hour)/time.Hour))
}

// short cuts a digest to what tells it apart.
func short(digest string) string {
	const keep = 12
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) <= keep {
		return digest
	}
	return algorithm + ":" + hex[:keep] + "…"
}

// printable makes a text from outside safe for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u202e' || r == '\u2066' || r == '\u2067' {
			return '\ufffd'
		}
		return r
	}, s)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
