package trust

import (
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealift/sealift/internal/strictyaml"
)

// decoder reads a trust policy's parts; open gives the content of files it
// names.
type decoder struct {
	strictyaml.Decoder
	open func(string) ([]byte, error)
}

type field = strictyaml.Field

func newDecoder(file string, open func(string) ([]byte, error)) *decoder {
	return &decoder{open: open, Decoder: strictyaml.Decoder{File: file, Dialect: strictyaml.Dialect{
		Key:        "key",
		Empty:      "sealift verify --print-trust shows one to begin with",
		Second:     "one policy a file",
		UnknownKey: strictyaml.DidYouMean,
		MaxString:  64 << 10,
	}}}
}

func (d *decoder) text(into *string) strictyaml.Read {
	return func(n *yaml.Node, at string) {
		if s, ok := d.String(n, at); ok {
			*into = s
		}
	}
}

func (d *decoder) texts(into *[]string) strictyaml.Read {
	return func(n *yaml.Node, at string) {
		*into = []string{}
		d.List(n, at, func(n *yaml.Node, at string) {
			if s, ok := d.String(n, at); ok {
				*into = append(*into, s)
			}
		})
	}
}

func (d *decoder) word(into *string, of []string) strictyaml.Read {
	return func(n *yaml.Node, at string) { strictyaml.Word(&d.Decoder, n, at, of, into) }
}

func (d *decoder) words(into *[]string, of []string) strictyaml.Read {
	return func(n *yaml.Node, at string) {
		*into = []string{}
		d.List(n, at, func(n *yaml.Node, at string) {
			var s string
			d.word(&s, of)(n, at)
			if s != "" && !slices.Contains(*into, s) {
				*into = append(*into, s)
			}
		})
	}
}

func (d *decoder) answer(into *Answer) strictyaml.Read {
	return func(n *yaml.Node, at string) { strictyaml.Word(&d.Decoder, n, at, []Answer{Accept, Reject}, into) }
}

func (d *decoder) duration(into *time.Duration) strictyaml.Read {
	return func(n *yaml.Node, at string) {
		s, ok := d.String(n, at)
		if !ok {
			return
		}
		v, err := time.ParseDuration(s)
		if err != nil || v < 0 {
			d.Fail(n, at, "a time span, such as 30s, 10m or 24h", "%q is not a time span", s)
			return
		}
		*into = v
	}
}
