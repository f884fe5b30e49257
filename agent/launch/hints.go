package launch

import nodev1 "github.com/sealift/sealift/api/node/v1"

// hints say what to do about a finding of a code where whoever found it knows
// nothing better.
var hints = map[string]string{
	"invalid":           "ask for less, or in a form that the OCI runtime specification and containerd know",
	"containerd":        "is containerd running, and the container still known to it? ctr -n NAMESPACE container info ID",
	"image":             "pull the image again",
	"mount":             "the host must have the source, and root must be able to read it",
	"hook":              "the host must have the program, and root must be able to read it",
	"mount-type":        "make the container anew with the overlayfs, native or erofs snapshotter",
	"mount-option":      "make the container anew without the option: the snapshotter's configuration, or the client, asks for it",
	"layer":             "pull the image again",
	"layer-content":     hintRefetch,
	"layer-count":       "make the container anew: its root was made from something else than its image, or not read-only",
	"layer-meaningless": "docs/layer-digest.md lists what has no single meaning; rebuild the image without it",
	"layer-order":       "make the container anew: its root stacks the image's layers in another order",
	"layer-unreadable":  "look at that directory or blob on this host; if it is damaged, remove the image and pull it again",
	"no-image":          "run an image, or one directory that policy names: docs/policy.md, rootfsWithoutImage",
	"root-attributes":   "make the container anew: the snapshotter makes the root directory as it must be",
	"upper":             "make the container anew: its writable layer cannot be looked at",
	"upper-not-empty":   "make the container anew: nothing may be in its writable layer before its first start",
	"id-mapping":        "make the container anew, with the mappings its user namespace has",
}

// hinted gives every finding without a hint that of its code.
func hinted(findings []*nodev1.Reason) {
	for _, r := range findings {
		if r.Hint == "" {
			r.Hint = hints[r.Code]
		}
	}
}
