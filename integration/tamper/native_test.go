package tamper_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
	"github.com/sealift/sealift/measure/layer"
)

// notNative are the changes that a cumulative copy has no place for: what only
// overlayfs gives a meaning, what a later layer hides, times of directories,
// which the copying does not keep.
var notNative = []string{"whiteout added", "content byte of a file that a later layer hides", "whiteout removed", "opaque mark removed", "whiteout by attribute",
	"time of a directory only"}

// TestChangedNative makes the changes in the copy that the native snapshotter
// made for a container, before its first start.
func TestChangedNative(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			s := tamper.TestStage(t, node.Options{Name: "native", Line: line})
			ctx := namespaces.WithNamespace(t.Context(), "native")
			img, err := s.Import(ctx, "native", "native", s.Image)
			if err != nil {
				t.Fatal(err)
			}
			c, err := s.Create(ctx, "native", "untampered", "native", img)
			if err != nil {
				t.Fatal(err)
			}
			if err := task(ctx, c); err != nil {
				t.Fatalf("untampered: %v", err)
			}
			for i, change := range tamper.Changes {
				if slices.Contains(notNative, change.Name) {
					continue
				}
				t.Run(change.Name, func(t *testing.T) {
					id := fmt.Sprint("c", i)
					c, err := s.Create(ctx, "native", id, "native", img)
					if err != nil {
						t.Fatal(err)
					}
					mounts, err := s.Client.SnapshotService("native").Mounts(ctx, id)
					if err != nil {
						t.Fatal(err)
					}
					dir := s.Inside(mounts[0].Source)
					if err := change.Apply([]string{dir, dir, dir}); err != nil {
						t.Fatal(err)
					}
					code := "layer-content"
					if change.Path == "" && change.Kind != layer.KindAdded {
						code = "root-attributes"
					}
					refusedTask(t, s, ctx, c, code)
				})
			}
		})
	}
}
