package inventory

import "testing"

// What a checkpoint includes says more than the name that it has for its image.
func TestCheckpointOf(t *testing.T) {
	const (
		layer = `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:01"}`
		image = layer + `,{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:02"}`
	)
	a := &Image{Name: "a", Target: "sha256:02", Manifest: "sha256:03"}
	moved := &Image{Name: "a", Target: "sha256:04", Manifest: "sha256:05"}
	for name, c := range map[string]struct {
		index string
		of    *Image
		want  bool
	}{
		"by name":               {`{"annotations":{"org.opencontainers.image.ref.name":"a"},"manifests":[` + layer + `]}`, a, true},
		"a task's, by name":     {`{"annotations":{"image.name":"a"},"manifests":[` + layer + `]}`, a, true},
		"another name":          {`{"annotations":{"image.name":"b"},"manifests":[` + layer + `]}`, a, false},
		"included":              {`{"annotations":{"image.name":"a"},"manifests":[` + image + `]}`, a, true},
		"included, renamed":     {`{"annotations":{"image.name":"b"},"manifests":[` + image + `]}`, a, true},
		"included, name moved":  {`{"annotations":{"image.name":"a"},"manifests":[` + image + `]}`, moved, false},
		"nothing said":          {`{"manifests":[` + layer + `]}`, a, false},
		"of no image":           {`{"manifests":[` + layer + `]}`, nil, true},
		"of an image, for none": {`{"annotations":{"image.name":"a"},"manifests":[` + layer + `]}`, nil, false},
	} {
		all := checkpoints("sha256:00", []byte(c.index))
		if len(all) != 1 {
			t.Fatalf("%s: %d checkpoints", name, len(all))
		}
		if got := all[0].Of(c.of); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, none := range []string{"", "{}", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:02"}]}`} {
		if all := checkpoints("sha256:00", []byte(none)); len(all) != 0 {
			t.Errorf("%q is a checkpoint: %v", none, all)
		}
	}
}
