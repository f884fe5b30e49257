package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/internal/owned"
	"github.com/sealift/sealift/measure/reference"
)

func (a *app) reference() *cobra.Command {
	c := &cobra.Command{
		Use:   "reference",
		Short: "sign what images must measure to, verify such bundles and import them",
		Long: `A signed reference (a bundle) says what the layers of images measure to, by the word of a key. A policy can ask for it:
"images: allow: - signedBy: KEY/BUNDLE". A bundle has a name, a version that only grows, and a day on which it expires;
a host takes no older version of a name than it has seen.

Images need no signed reference to be checked against what was pulled: Sealift computes that from the blobs by itself.`,
		Annotations: map[string]string{"see": "docs/policy.md: what signedBy in a policy selects"},
		Args:        args(0, 0, ""),
		RunE:        func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.referenceCreate(), a.referenceVerify(), a.referenceImport())
	return c
}

type createOptions struct {
	name, key, out, expires, platform, namespace string
	version                                      uint64
}

func (a *app) referenceCreate() *cobra.Command {
	var o createOptions
	c := &cobra.Command{
		Use:   "create --name NAME --version N --expires WHEN --key KEY [IMAGE|ARCHIVE]...",
		Short: "compute and sign a bundle",
		Long: `Compute what the layers of images measure to, and sign it. An ARCHIVE is an OCI image layout, as a tar ("ctr images
export", "skopeo copy … oci-archive:") or a directory: no agent and no root is needed, and all platforms in it are
taken. An IMAGE is one in this host's containerd: the agent measures it, and it must be what its blobs say.

KEY is a private key in PEM, Ed25519 or ECDSA (openssl genpkey -algorithm ed25519 -out key.pem); "-" reads it from
standard input. Hosts get the public one as a file in ` + reference.TrustDir + `:
openssl pkey -in key.pem -pubout -out release.pem. The file's name is what policies call the key.

WHEN is a date (2027-01-31), a time (RFC 3339), or a number of days from now (90d). A bundle without an image
withdraws what earlier versions said.`,
		Example: `  ctr images export web.tar registry.example/web:1
  sealift reference create --name web --version 7 --expires 90d --key key.pem -o web.dsse web.tar
  sealift reference create --name web --version 8 --expires 90d --key key.pem registry.example/web:2 > web.dsse`,
		RunE: func(c *cobra.Command, sources []string) error {
			for _, f := range []struct{ flag, value string }{{"name", o.name}, {"expires", o.expires}, {"key", o.key}} {
				if f.value == "" {
					return usage(c, fmt.Errorf("--%s is missing", f.flag))
				}
			}
			if o.version == 0 {
				return usage(c, errors.New("--version is missing: it begins at 1 and grows with each bundle of one name"))
			}
			expires, err := when(o.expires, time.Now())
			if err != nil {
				return usage(c, err)
			}
			return a.createReference(c.Context(), o, expires, sources)
		},
	}
	f := c.Flags()
	f.StringVar(&o.name, "name", "", "the bundle's `name`")
	f.Uint64Var(&o.version, "version", 0, "the bundle's version, a `number` that grows")
	f.StringVar(&o.expires, "expires", "", "when it expires: `date`, time or 90d")
	f.StringVar(&o.key, "key", "", "the private key's `file`, or -")
	f.StringVarP(&o.out, "output", "o", "-", "write to `file` instead of standard output")
	f.StringVar(&o.platform, "platform", "", "take only this `platform` of an archive, as linux/amd64")
	f.StringVarP(&o.namespace, "namespace", "n", "default", "the containerd `namespace` of IMAGE")
	return c
}

// when reads a point in time.
func when(s string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.Add(time.Duration(n) * 24 * time.Hour).UTC().Truncate(time.Second), nil
		}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Truncate(time.Second), nil
		}
	}
	return time.Time{}, fmt.Errorf("--expires %q: wanted 2027-01-31, 2027-01-31T12:00:00Z or 90d", s)
}

func (a *app) createReference(ctx context.Context, o createOptions, expires time.Time, sources []string) error {
	signer, err := a.signer(o.key)
	if err != nil {
		return err
	}
	b := &reference.Bundle{Name: o.name, Version: o.version, Expires: expires, Images: []reference.Image{}}
	if !time.Now().Before(expires) {
		return no("reference %s: would expire at %s, which is past", o.name, expires.Format(time.RFC3339))
	}
	seen := map[string]bool{}
	for _, s := range sources {
		images, err := a.imagesOf(ctx, s, o)
		if err != nil {
			return err
		}
		for _, im := range images {
			if !seen[im.Manifest] {
				b.Images = append(b.Images, im)
			}
			seen[im.Manifest] = true
		}
	}
	env, err := reference.Sign(ctx, b, signer)
	if err != nil {
		return err
	}
	if o.out != "-" {
		if err := writeFile(o.out, env, 0o644); err != nil {
			return fmt.Errorf("reference %s: %w", o.name, err)
		}
	} else if _, err := a.out.Write(env); err != nil {
		return err
	}
	for _, im := range b.Images {
		fmt.Fprintf(a.err, "%s %s, %d layers\n", im.Platform, im.Manifest, len(im.Layers))
	}
	if len(b.Images) == 0 {
		fmt.Fprintf(a.err, "no image: this bundle withdraws what earlier versions of %s said\n", o.name)
	}
	return nil
}

func (a *app) signer(file string) (*reference.Signer, error) {
	const limit = 64 << 10
	var data []byte
	var err error
	if file == "-" {
		data, err = io.ReadAll(io.LimitReader(a.stdin, limit))
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	s, err := reference.ParseSigner(data)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", file, err)
	}
	return s, nil
}

// imagesOf computes the images of an archive, or of one image of this host.
func (a *app) imagesOf(ctx context.Context, source string, o createOptions) ([]reference.Image, error) {
	if _, err := os.Stat(source); err == nil || filepath.IsAbs(source) || isRelative(source) {
		return a.fromArchive(ctx, source, o.platform)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("archive: %w", err)
	}
	im := reference.Image{Platform: runtime.GOOS + "/" + runtime.GOARCH}
	err := a.withAgent(ctx, func(n nodev1.NodeClient) error {
		done, err := a.agentMeasures(ctx, n, &nodev1.MeasureRequest{Namespace: o.namespace, Image: source}, func(u *nodev1.MeasureUpdate) error {
			im.Layers = append(im.Layers, reference.Layer{DiffID: u.GetLayer(), Digest: u.GetDigest()})
			return nil
		})
		if err != nil {
			return err
		}
		if r := done.GetReasons(); len(r) > 0 {
			return no("image %s is not what it says, so it is not signed:%s", source, printable(node.FormatReasons(r)))
		}
		if len(im.Layers) == 0 {
			return no("image %s: this snapshotter keeps no layers that could be measured\nhint: ctr images export FILE.tar %s, and name the file", source, source)
		}
		im.Manifest = done.GetDigest()
		return nil
	})
	return []reference.Image{im}, err
}

func (a *app) referenceVerify() *cobra.Command {
	var trust string
	var keys []string
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "verify a bundle's signatures and expiry, and show it",
		Long: `Verify a bundle against the keys this host trusts, or those named, and show what it says. Whether its version is newer
than what this host has seen is checked at import.`,
		Example: `  sealift reference verify web.dsse
  sealift reference verify --key release.pem --json web.dsse`,
		Args: args(1, 1, "the bundle's file"),
		RunE: func(_ *cobra.Command, args []string) error { return a.verifyReference(args[0], trust, keys) },
	}
	c.Flags().StringVar(&trust, "trust", reference.TrustDir, "the `directory` of trusted public keys")
	c.Flags().StringArrayVar(&keys, "key", nil, "trust this public key's `file` instead; may be repeated")
	return c
}

func (a *app) verifyReference(file, trust string, files []string) error {
	env, err := a.envelope(file)
	if err != nil {
		return err
	}
	var keys []reference.Key
	for _, f := range files {
		k, err := reference.LoadKey(f)
		if err != nil {
			return err
		}
		keys = append(keys, k)
	}
	if len(files) == 0 {
		if keys, err = reference.LoadTrust(trust); err != nil {
			return err
		}
	}
	v, err := reference.Verify(env, keys, time.Now())
	if err != nil {
		return refused(err)
	}
	if a.json {
		return a.object(struct {
			SignedBy []string          `json:"signedBy"`
			Digest   string            `json:"digest"`
			Bundle   *reference.Bundle `json:"bundle"`
		}{v.SignedBy(), v.Digest, v.Bundle})
	}
	b := v.Bundle
	rows := [][]string{
		{"bundle", fmt.Sprintf("%s, version %d", b.Name, b.Version)},
		{"signed by", strings.Join(v.SignedBy(), ", ")},
		{"expires", fmt.Sprintf("%s (in %s)", b.Expires.Format(time.RFC3339), ago(time.Until(b.Expires)))},
		{"images", strconv.Itoa(len(b.Images))},
	}
	for _, im := range b.Images {
		rows = append(rows, []string{"", fmt.Sprintf("%s %s, %d layers", im.Platform, im.Manifest, len(im.Layers))})
	}
	return a.table(rows)
}

// refused makes those errors an answer of no that are about the bundle.
func refused(err error) error {
	var m *reference.MalformedError
	var u *reference.UntrustedError
	var x *reference.ExpiredError
	if errors.As(err, &m) || errors.As(err, &u) || errors.As(err, &x) {
		return &noError{err}
	}
	return err
}

func (a *app) envelope(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(io.LimitReader(a.stdin, reference.MaxEnvelope+1))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	defer f.Close()
	data, err := owned.Read(f, reference.MaxEnvelope)
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	return data, nil
}

func (a *app) referenceImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "give a bundle to the agent",
		Long: `Give a bundle to the agent, which verifies it against the keys in ` + reference.TrustDir + `, refuses an older
version of its name than it has seen, keeps it, and records the import in the event log. Importing a bundle again
changes nothing.`,
		Example: `  sealift reference import web.dsse`,
		Args:    args(1, 1, "the bundle's file"),
		RunE: func(c *cobra.Command, args []string) error {
			env, err := a.envelope(args[0])
			if err != nil {
				return err
			}
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error {
				r, err := n.ImportReference(c.Context(), &nodev1.ImportReferenceRequest{Envelope: env})
				if err != nil {
					return err
				}
				if a.json {
					return a.message(r)
				}
				_, err = fmt.Fprintf(a.out, "imported %s version %d: %d images\n", r.GetName(), r.GetVersion(), len(r.GetImages()))
				return err
			})
		},
	}
}
