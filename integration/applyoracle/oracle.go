// Package applyoracle unpacks tars with the unpackers of both containerd lines,
// to check that package measure/layer gives a tar the meaning they give it. It
// is a module of its own so that nothing else depends on the older line.
package applyoracle

import (
	"context"
	"fmt"
	"io"

	archive1 "github.com/containerd/containerd/archive"
	archive2 "github.com/containerd/containerd/v2/pkg/archive"
)

// Line is one containerd line.
type Line string

// The lines whose unpackers are linked in; go.mod has the exact versions.
const (
	Line1 Line = "1.7"
	Line2 Line = "2.x"
)

// Lines lists all lines.
var Lines = []Line{Line1, Line2}

// Overlay unpacks r into dir as the overlayfs snapshotter's diff applier does:
// whiteouts become overlay's, and parents, nearest first, give unnamed
// directories their attributes.
func (l Line) Overlay(ctx context.Context, dir string, r io.Reader, parents []string) error {
	var err error
	switch l {
	case Line1:
		opts := []archive1.ApplyOpt{archive1.WithConvertWhiteout(archive1.OverlayConvertWhiteout)}
		if len(parents) > 0 {
			opts = append(opts, archive1.WithParents(parents))
		}
		_, err = archive1.Apply(ctx, dir, r, opts...)
	case Line2:
		opts := []archive2.ApplyOpt{archive2.WithConvertWhiteout(archive2.OverlayConvertWhiteout)}
		if len(parents) > 0 {
			opts = append(opts, archive2.WithParents(parents))
		}
		_, err = archive2.Apply(ctx, dir, r, opts...)
	default:
		return fmt.Errorf("containerd line %q is not linked in", l)
	}
	return err
}

// Native unpacks r onto dir as it is done for the native snapshotter: whiteouts
// remove what dir has.
func (l Line) Native(ctx context.Context, dir string, r io.Reader) error {
	var err error
	switch l {
	case Line1:
		_, err = archive1.Apply(ctx, dir, r)
	case Line2:
		_, err = archive2.Apply(ctx, dir, r)
	default:
		return fmt.Errorf("containerd line %q is not linked in", l)
	}
	return err
}
