package layer_test

import (
	"errors"
	"testing"

	"github.com/sealift/sealift/measure/layer"
)

func TestMerge(t *testing.T) {
	low := fromTar(t, dir("d"), file("d/a", "1"), file("d/b", "2"), hardlink("d/c", "d/b"), dir("e"), file("e/x", ""), file("gone", ""), symlink("s", "d"),
		entry{typ: '5', name: "k/", mode: 0o700, uid: 5, xattrs: map[string]string{"user.low": "1"}})
	high := fromTar(t, file("d/a", "new"), file("d/c", "3"), file("e/.wh..wh..opq", ""), file("e/y", ""), file(".wh.gone", ""), file("i/j/f", ""),
		entry{typ: '5', name: "k/", mode: 0o711, uid: 6, sec: 99, xattrs: map[string]string{"user.high": "2"}})
	got, err := layer.Merge([]*layer.Manifest{low, high})
	if err != nil {
		t.Fatal(err)
	}
	want := fromTar(t, dir("d"), file("d/a", "new"), file("d/b", "2"), file("d/c", "3"), dir("e"), file("e/y", ""), dir("i"), dir("i/j"), file("i/j/f", ""), symlink("s", "d"),
		entry{typ: '5', name: "k/", mode: 0o711, uid: 6, xattrs: map[string]string{"user.low": "1", "user.high": "2"}})
	want.Tree = true
	for _, d := range layer.Compare(want, got) {
		t.Error(d)
	}
	if got.TreeDigest() != want.TreeDigest() {
		t.Error("digests differ")
	}
	if layer.Digest(got.TreeDigest()) == got.Digest() {
		t.Error("layer and tree digests are one")
	}
}

func TestMergeRefusesWhatDependsOnLowerLayers(t *testing.T) {
	for name, layers := range map[string][]*layer.Manifest{
		"link as a parent": {fromTar(t, dir("b"), symlink("a", "b")), fromTar(t, file("a/f", ""))},
		"file as a parent": {fromTar(t, file("a", "")), fromTar(t, file("a/f", ""))},
	} {
		_, err := layer.Merge(layers)
		var m *layer.MeaninglessError
		if !errors.As(err, &m) || m.Reason != layer.ReasonLowerLayer {
			t.Errorf("%s: %v", name, err)
		}
	}
}
