package runtime

import (
	"os"
	"slices"
	"strings"
	"sync"
)

// overlayParameters is where the overlay module lists what it knows.
const overlayParameters = "/sys/module/overlay/parameters"

// strictOptions make overlay ignore the xattrs by which a layer can show content
// from somewhere else than its measured files, and what the work directory
// keeps of earlier mounts.
var strictOptions = []string{"index=off", "redirect_dir=nofollow", "metacopy=off"}

// overlayStrict is whether this kernel knows strictOptions. metacopy came with
// Linux 4.19, redirect_dir=nofollow with 4.15.
var overlayStrict = sync.OnceValue(func() bool {
	for _, name := range []string{"index", "metacopy", "redirect_dir"} {
		if _, err := os.Stat(overlayParameters + "/" + name); err != nil {
			return false
		}
	}
	return true
})

// OverlayOptions returns the options to mount an overlay root file system with.
// An option that is set already stays: whether it is acceptable is for the agent
// to say, not for the shim to hide. On a kernel without them options is returned
// as it is.
func OverlayOptions(options []string) []string {
	if !overlayStrict() {
		return options
	}
	return withStrict(options)
}

func withStrict(options []string) []string {
	out := slices.Clone(options)
	for _, strict := range strictOptions {
		name, _, _ := strings.Cut(strict, "=")
		if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, name+"=") }) {
			out = append(out, strict)
		}
	}
	return out
}
