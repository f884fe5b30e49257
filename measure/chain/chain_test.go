package chain

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/skip"
)

func overlay(options ...string) []*nodev1.Mount {
	return []*nodev1.Mount{{Type: "overlay", Source: "overlay", Options: options}}
}

func TestParseOverlayIsBottomFirst(t *testing.T) {
	c, err := Parse(overlay("workdir=/s/4/work", "upperdir=/s/4/fs", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs", "index=off"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range c.Lowers {
		got = append(got, l.Dir)
	}
	if want := []string{"/s/1/fs", "/s/2/fs", "/s/3/fs"}; !slices.Equal(got, want) {
		t.Fatalf("lowers %v, wanted %v", got, want)
	}
	if c.Kind != Overlay || c.Upper != "/s/4/fs" || c.Work != "/s/4/work" || c.ReadOnly {
		t.Fatalf("chain %+v", c)
	}
}

func TestParseRefuses(t *testing.T) {
	up := []string{"workdir=/s/4/work", "upperdir=/s/4/fs"}
	for _, tc := range []struct {
		name, code string
		mounts     []*nodev1.Mount
	}{
		{"redirects followed", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "redirect_dir=on")...)},
		{"redirects follow", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "redirect_dir=follow")...)},
		{"index", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "index=on")...)},
		{"marks in user attributes", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "userxattr")...)},
		{"metacopy", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "metacopy=on")...)},
		{"verity of nobody's choosing", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "verity=off")...)},
		{"lowerdir twice", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "lowerdir=/s/2/fs")...)},
		{"lowerdir+", "mount-option", overlay(append(up, "lowerdir+=/s/1/fs")...)},
		{"data-only layer", "mount-option", overlay(append(up, "lowerdir=/s/1/fs::/s/2/fs")...)},
		{"escaped colon", "mount-option", overlay(append(up, `lowerdir=/s/1/f\:s`)...)},
		{"no lower", "mount-option", overlay(up...)},
		{"upper without work", "mount-option", overlay("upperdir=/s/4/fs", "lowerdir=/s/1/fs")},
		{"one lower twice", "layer-order", overlay(append(up, "lowerdir=/s/1/fs:/s/1/fs")...)},
		{"relative lower", "mount-type", overlay(append(up, "lowerdir=s/1/fs")...)},
		{"dot-dot in lower", "mount-type", overlay(append(up, "lowerdir=/s/../1/fs")...)},
		{"half a mapping", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "uidmap=0:1000:65536")...)},
		{"two mappings", "mount-option", overlay(append(up, "lowerdir=/s/1/fs", "uidmap=0:1000:65536", "uidmap=0:0:65536", "gidmap=0:0:65536")...)},
		{"half a mapping of a bind", "mount-option", []*nodev1.Mount{{Type: "bind", Source: "/s/1/fs", Options: []string{"ro", "gidmap=0:1000:65536"}}}},
		{"two mounts", "mount-type", append(overlay(append(up, "lowerdir=/s/1/fs")...), &nodev1.Mount{Type: "bind", Source: "/evil"})},
		{"mount beneath the root", "mount-type", []*nodev1.Mount{{Type: "bind", Source: "/s/1/fs", Target: "/etc"}}},
		{"tmpfs", "mount-type", []*nodev1.Mount{{Type: "tmpfs", Source: "tmpfs"}}},
		{"erofs of two devices", "mount-option", []*nodev1.Mount{{Type: "erofs", Source: "/b", Options: []string{"ro", "device=/c"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse(tc.mounts)
			var p *Problem
			if !errors.As(err, &p) || p.Code != tc.code {
				t.Fatalf("error %v, wanted a problem with code %s", err, tc.code)
			}
		})
	}
}

func TestExamineRoot(t *testing.T) {
	skip.On(t, skip.NeedRoot())
	fresh := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "fs")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	t.Run("fresh", func(t *testing.T) {
		r, err := ExamineRoot(fresh(t), Owner{})
		if err != nil || !r.Empty {
			t.Fatalf("%+v, %v", r, err)
		}
	})
	t.Run("a user namespace's", func(t *testing.T) {
		dir := fresh(t)
		if err := os.Chown(dir, 1000, 2000); err != nil {
			t.Fatal(err)
		}
		if r, err := ExamineRoot(dir, Owner{1000, 2000}); err != nil || !r.Empty {
			t.Fatalf("%+v, %v", r, err)
		}
		var p *Problem
		if _, err := ExamineRoot(dir, Owner{1000, 1000}); !errors.As(err, &p) || p.Code != "root-attributes" {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("not empty", func(t *testing.T) {
		dir := fresh(t)
		if err := os.WriteFile(filepath.Join(dir, "evil"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if r, err := ExamineRoot(dir, Owner{}); err != nil || r.Empty || r.FirstEntry != "evil" {
			t.Fatalf("%+v, %v", r, err)
		}
	})
	for name, change := range map[string]func(string) error{
		"mode":  func(d string) error { return os.Chmod(d, 0o777) },
		"owner": func(d string) error { return os.Chown(d, 1000, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := fresh(t)
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			var p *Problem
			if _, err := ExamineRoot(dir, Owner{}); !errors.As(err, &p) || p.Code != "root-attributes" {
				t.Fatalf("error %v", err)
			}
		})
	}
}
