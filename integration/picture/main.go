// Command picture draws the README's picture: it reads what the demo printed and
// writes the steps that matter as an SVG of a terminal.
//
//	go run ./integration/demo | tee /dev/stderr | go run ./integration/picture > docs/demo.svg
package main

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"os"
	"regexp"
	"strings"
)

// What a README's column holds.
const (
	columns    = 126
	lineHeight = 17
	charWidth  = 7.25 // of a 12 px monospace, rounded up
	margin     = 16
)

// shown are the steps of the demo that the picture has: it runs, it is logged,
// log and TPM agree, a byte is changed, it is refused.
var shown = map[string]bool{"4": true, "5": true, "6": true, "8": true, "9": true}

func main() {
	if err := draw(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

// line is one line of the picture.
type line struct{ text, class string }

var (
	step = regexp.MustCompile(`^(\d+)\. `)
	// Other banks say the same again.
	otherBank = regexp.MustCompile(`^ *(replay|value) +sha(1|384|512) `)
)

func draw(r io.Reader, w io.Writer) error {
	lines, err := read(r)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		return fmt.Errorf("none of the steps is in the input\nhint: go run ./integration/demo | go run ./integration/picture")
	}
	width, height := columns*charWidth+2*margin, len(lines)*lineHeight+2*margin
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" xml:space="preserve" font-family="ui-monospace, monospace" font-size="12">
<style>
  rect { fill: #0d1117 } text { fill: #c9d1d9; white-space: pre }
  .say { fill: #79c0ff } .command { fill: #ffffff; font-weight: bold } .good { fill: #56d364 } .bad { fill: #ff7b72 }
</style>
<rect width="100%%" height="100%%" rx="8"/>
`, width, height)
	for i, l := range lines {
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" class=\"%s\">%s</text>\n", margin, margin+(i+1)*lineHeight-4, l.class, html.EscapeString(l.text))
	}
	fmt.Fprintln(b, "</svg>")
	return b.Flush()
}

func read(r io.Reader) ([]line, error) {
	var lines []line
	wanted, refused := false, false
	in := bufio.NewScanner(r)
	for in.Scan() {
		text := strings.TrimRight(in.Text(), " ")
		if m := step.FindStringSubmatch(text); m != nil {
			if wanted = shown[m[1]]; wanted && len(lines) > 0 {
				lines = append(lines, line{})
			}
		}
		if !wanted || text == "" || otherBank.MatchString(text) {
			continue
		}
		if strings.HasPrefix(text, "   $ ") {
			refused = false
		}
		refused = refused || strings.Contains(text, "sealift refused")
		lines = append(lines, wrap(text, class(text, refused))...)
	}
	return lines, in.Err()
}

func class(text string, refused bool) string {
	switch {
	case step.MatchString(text):
		return "say"
	case strings.HasPrefix(text, "   $ "):
		return "command"
	case strings.HasPrefix(text, "   → "), strings.Contains(text, "verdict  proven"):
		return "good"
	case refused:
		return "bad"
	}
	return "output"
}

// wrap breaks a long line as a terminal would.
func wrap(text, class string) []line {
	var out []line
	runes := []rune(text)
	for len(runes) > columns {
		out = append(out, line{string(runes[:columns]), class})
		runes = append([]rune("       "), runes[columns:]...)
	}
	return append(out, line{string(runes), class})
}
