package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/reference"
	"github.com/sealift/sealift/measure/tree"
)

func (a *app) measure() *cobra.Command {
	var m measureOptions
	c := &cobra.Command{
		Use:   "measure IMAGE|DIR|TAR",
		Short: "measure an image of this host, a directory, a layer tar or an image archive",
		Long: `What is measured depends on what is named:

  IMAGE  an image in containerd: the agent compares every layer on the disk with what its blob unpacks to, and binds
         it, so that the next start re-checks instead of hashing.
  DIR    a directory. Its layer digest is printed, as if it were one unpacked layer, and its tree digest: what a rootfs
         without an image is called in a policy. With --against a layer's tar it is compared with that layer, and every
         difference is listed.
  TAR    a layer's tar, plain or compressed with gzip or zstd: what it must measure to when it is unpacked.
         For an image archive (OCI layout, as a tar or a directory) every layer of every image in it.

A name that exists as a file is a DIR or TAR, everything else an IMAGE; write ./NAME to be sure of a file.

With --json each layer is a line.`,
		Example: `  sealift measure docker.io/library/redis:7
  sealift measure ./rootfs
  sealift measure layer.tar.gz
  sealift measure /var/lib/containerd/…/snapshots/12/fs --against layer.tar.gz`,
		Args: args(1, 1, "what to measure (IMAGE, DIR or TAR)"),
		RunE: func(c *cobra.Command, args []string) error { return a.measureTarget(c, args[0], m) },
	}
	f := c.Flags()
	f.StringVarP(&m.namespace, "namespace", "n", "default", "the containerd `namespace` of IMAGE")
	f.BoolVar(&m.force, "force", false, "IMAGE: hash again even where a binding holds")
	f.StringVar(&m.against, "against", "", "DIR: compare with the layer `tar`")
	f.IntVar(&m.workers, "workers", 0, "DIR: hash `n` files at a time (one a core)")
	return c
}

type measureOptions struct {
	namespace, against string
	force              bool
	workers            int
}

func (a *app) measureTarget(c *cobra.Command, target string, m measureOptions) error {
	st, err := os.Stat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(target) && !isRelative(target):
		if m.against != "" {
			return usage(c, fmt.Errorf("--against is for a directory, and %s is none", target))
		}
		return a.withAgent(c.Context(), func(n nodev1.NodeClient) error { return a.measureImage(c.Context(), n, target, m) })
	case err != nil:
		return fmt.Errorf("measure: %w", err)
	case st.IsDir():
		if m.against != "" {
			return a.measureDir(c.Context(), target, m)
		}
	case m.against != "":
		return usage(c, fmt.Errorf("--against is for a directory, and %s is none", target))
	}
	switch archive, err := reference.IsLayout(target); {
	case err != nil:
		return err
	case archive:
		return a.measureArchive(c.Context(), target)
	case st.IsDir():
		return a.measureDir(c.Context(), target, m)
	}
	return a.measureFile(target)
}

func isRelative(name string) bool {
	return name == "." || name == ".." || len(name) > 1 && name[:2] == "./" || len(name) > 2 && name[:3] == "../"
}

// measuredLayer is one line of the answer.
type measuredLayer struct {
	Manifest string `json:"manifest,omitempty"`
	Platform string `json:"platform,omitempty"`
	Layer    string `json:"layer,omitempty"`
	Digest   string `json:"digest"`
	Tree     string `json:"tree,omitempty"`
	Binding  string `json:"binding,omitempty"`
	Why      string `json:"why,omitempty"`
	Files    int64  `json:"files,omitempty"`
	Bytes    int64  `json:"bytes,omitempty"`

	Differences []layer.Difference `json:"differences,omitempty"`
}

func (a *app) measureFile(file string) error {
	m, err := layerOf(file)
	if err != nil {
		return err
	}
	if a.json {
		return a.object(measuredLayer{Digest: m.Digest().String(), Files: int64(len(m.Records))})
	}
	_, err = fmt.Fprintln(a.out, m.Digest())
	return err
}

// layerOf measures a layer's tar.
func layerOf(file string) (*layer.Manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	defer f.Close()
	r, err := reference.Decompress(f)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", file, err)
	}
	defer r.Close()
	m, err := layer.FromTar(r)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", file, err)
	}
	return m, nil
}

// digestLayer is how references compute layer digests.
func digestLayer(r io.Reader) (string, error) {
	m, err := layer.FromTar(r)
	if err != nil {
		return "", err
	}
	return m.Digest().String(), nil
}

func (a *app) measureArchive(ctx context.Context, file string) error {
	images, err := a.fromArchive(ctx, file, "")
	if err != nil {
		return err
	}
	for _, im := range images {
		if !a.json {
			if _, err := fmt.Fprintf(a.out, "%s  %s\n", im.Platform, im.Manifest); err != nil {
				return err
			}
		}
		for _, l := range im.Layers {
			err := a.line(measuredLayer{Manifest: im.Manifest, Platform: im.Platform, Layer: l.DiffID, Digest: l.Digest}, "  %s  %s", short(l.DiffID), l.Digest)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// fromArchive reads an image archive with a progress bar.
func (a *app) fromArchive(ctx context.Context, file, platform string) ([]reference.Image, error) {
	p := a.progress()
	defer p.clear()
	return reference.FromArchive(ctx, file, reference.ArchiveOptions{Digest: digestLayer, Platform: platform, Progress: func(r reference.Progress) {
		p.set(fmt.Sprintf("%s layer %d of %d", r.Platform, r.Layer, r.Layers), r.Bytes, 0)
	}})
}

// line prints v as JSON, or the text.
func (a *app) line(v any, format string, args ...any) error {
	if a.json {
		return a.object(v)
	}
	_, err := fmt.Fprintf(a.out, format+"\n", args...)
	return err
}

func (a *app) measureDir(ctx context.Context, dir string, m measureOptions) error {
	o := tree.Options{Workers: m.workers}
	if m.against != "" {
		want, err := layerOf(m.against)
		if err != nil {
			return err
		}
		o.Want = want
	}
	p := a.progress()
	defer p.clear()
	o.Progress = func(files, bytes int64) { p.set(fmt.Sprintf("%d files", files), bytes, 0) }
	res, err := tree.Measure(ctx, dir, o)
	if err != nil {
		return err
	}
	answer := measuredLayer{Digest: res.Manifest.Digest().String(), Files: res.Files, Bytes: res.Bytes,
		Binding: string(res.Binding.Class()), Why: res.Binding.Reason(), Differences: res.Differences}
	if err := res.Binding.Close(); err != nil {
		return fmt.Errorf("measure %s: %w", dir, err)
	}
	if m.against == "" {
		// The tree digest is of what the native snapshotter keeps, which is all
		// that can be said of a directory that is not a layer.
		o.Native = true
		whole, err := tree.Measure(ctx, dir, o)
		if err != nil {
			return err
		}
		answer.Tree = whole.Manifest.TreeDigest().String()
		if err := whole.Binding.Close(); err != nil {
			return fmt.Errorf("measure %s: %w", dir, err)
		}
	}
	p.clear()
	if err := a.showDir(answer); err != nil {
		return err
	}
	if len(answer.Differences) > 0 {
		return errTold
	}
	return nil
}

func (a *app) showDir(m measuredLayer) error {
	if a.json {
		return a.object(m)
	}
	rows := [][]string{{"as a layer", m.Digest}}
	if m.Tree != "" {
		rows = append(rows, []string{"as a tree", m.Tree})
	}
	binding := m.Binding
	if m.Why != "" {
		binding += ": " + m.Why
	}
	rows = append(rows, []string{"binding", binding}, []string{"content", fmt.Sprintf("%d files, %s", m.Files, size(m.Bytes))})
	if err := a.table(rows); err != nil {
		return err
	}
	for _, d := range m.Differences {
		if _, err := fmt.Fprintln(a.out, "differs     "+printable(d.String())); err != nil {
			return err
		}
	}
	return nil
}

// measureImage has the agent measure an image.
func (a *app) measureImage(ctx context.Context, n nodev1.NodeClient, image string, m measureOptions) error {
	done, err := a.agentMeasures(ctx, n, &nodev1.MeasureRequest{Namespace: m.namespace, Image: image, Force: m.force}, func(u *nodev1.MeasureUpdate) error {
		if a.json {
			return a.message(u)
		}
		_, err := fmt.Fprintf(a.out, "%-9s %s  %s  %s\n", u.GetState(), short(u.GetLayer()), u.GetDigest(), dash(u.GetBinding()))
		return err
	})
	if err != nil {
		return err
	}
	if a.json {
		if err := a.message(done); err != nil {
			return err
		}
	}
	if r := done.GetReasons(); len(r) > 0 {
		return no("image %s is not what it says:%s", image, printable(node.FormatReasons(r)))
	}
	if a.json {
		return nil
	}
	_, err = fmt.Fprintf(a.out, "%s is what it says: %s\n", image, done.GetDigest())
	return err
}

// agentMeasures follows a measurement; known is called for each layer that is
// done. It returns the last update.
func (a *app) agentMeasures(ctx context.Context, n nodev1.NodeClient, req *nodev1.MeasureRequest, known func(*nodev1.MeasureUpdate) error) (*nodev1.MeasureUpdate, error) {
	stream, err := n.Measure(ctx, req)
	if err != nil {
		return nil, err
	}
	p := a.progress()
	defer p.clear()
	for {
		u, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("image %s: the agent ended without an answer", req.GetImage())
			}
			return nil, err
		}
		switch {
		case u.GetState() == "done":
			return u, nil
		case u.GetState() == "bound" || u.GetState() == "mismatch":
			p.clear()
			if err := known(u); err != nil {
				return nil, err
			}
		default:
			p.set(fmt.Sprintf("%s %s", u.GetState(), short(u.GetLayer())), int64(u.GetBytesDone()), int64(u.GetBytesTotal()))
		}
	}
}
