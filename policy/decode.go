package policy

import (
	"go.yaml.in/yaml/v3"

	"github.com/sealift/sealift/internal/strictyaml"
)

// decoder reads a policy's parts.
type decoder struct{ strictyaml.Decoder }

type field = strictyaml.Field

func newDecoder(file string) *decoder {
	return &decoder{strictyaml.Decoder{File: file, Dialect: strictyaml.Dialect{
		Key:        "field",
		Empty:      "remove the file, or write a policy; docs/policy.md begins with one",
		Second:     "one policy a file: move this document to a file of its own",
		UnknownKey: unknownHint,
		NameFound:  true,
		MaxString:  maxString,
	}}}
}

func word[W ~string](d *decoder, n *yaml.Node, at string, scale []W, into *W) {
	strictyaml.Word(&d.Decoder, n, at, scale, into)
}
