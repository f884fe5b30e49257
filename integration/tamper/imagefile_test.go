package tamper_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

const superblock = tamper.Superblock

// fileEdits change the middle layer's file itself. What the kernel takes no more
// starts nowhere; what no container could see does not count.
var fileEdits = []struct {
	name, code, path string
	unmountable      bool
	edit             func([]byte) []byte
}{
	{name: "content byte", code: "layer-content", path: "/opt/first", edit: replaced("the file first", "The file first")},
	{name: "a name in a directory", code: "layer-content", path: "/opt/labelled", edit: sealed(replaced("labelledlink", "labelleelink"))},
	{name: "truncation of the files", code: "layer-unreadable", edit: func(b []byte) []byte { return b[:len(b)-8192] }},
	{name: "truncation to the superblock", unmountable: true, edit: func(b []byte) []byte { return b[:1500] }},
	{name: "superblock's magic", unmountable: true, edit: func(b []byte) []byte { b[superblock] ^= 1; return b }},
	{name: "superblock's root", unmountable: true, edit: func(b []byte) []byte { b[superblock+14] ^= 1; return b }},
	{name: "growth", edit: func(b []byte) []byte { return append(b, make([]byte, 4096)...) }},
}

// replaced swaps what is in an image file once for something of the same length.
func replaced(from, to string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(from), []byte(to), 1) }
}

// sealed makes an edit of the first block one that the kernel takes: its checksum
// is right again.
func sealed(edit func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte { return tamper.Seal(edit(b)) }
}

// TestImageFileEdited changes the file of a layer in place and by renaming a
// changed copy over it, with its old times, before it was measured and after it
// was bound.
func TestImageFileEdited(t *testing.T) {
	s := erofsStage(t, "edited")
	p := newPacked(t, s, "edited")
	for _, c := range fileEdits {
		for _, bound := range []bool{false, true} {
			for _, inPlace := range []bool{false, true} {
				name := c.name + map[bool]string{false: "/unmeasured", true: "/bound"}[bound] + map[bool]string{false: "/renamed", true: "/in place"}[inPlace]
				t.Run(name, func(t *testing.T) {
					p.restore(t)
					if bound {
						p.bind(t)
					}
					done := make(chan error, 1)
					go func() { done <- p.files.Edit(t.Context(), 1, inPlace, c.edit) }()
					p.whileWritten(t, done)
					resp := p.mountedAsk(t)
					switch {
					case resp == nil && !c.unmountable:
						t.Error("the kernel does not take it")
					case c.unmountable:
						if resp != nil && resp.GetRefused() == nil {
							t.Errorf("answer %v", resp)
						}
						if out, err := p.run(t, "c-run"); err == nil {
							t.Errorf("started, and wrote %q", out)
						}
					case c.code == "":
						verdict(t, resp, "")
					default:
						refusedAt(t, resp, c.code, c.path)
					}
				})
			}
		}
	}
}

// whileWritten waits for a writer, who may have to wait for the agent's lease
// until the agent looks at the file again. Nothing that starts meanwhile was
// changed: the agent still holds the lease.
func (p *packed) whileWritten(t *testing.T, done <-chan error) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		case <-time.After(20 * time.Millisecond):
			p.mountedAsk(t)
		}
	}
	t.Fatal("the writer still waits")
}

func refusedAt(t *testing.T, resp *nodev1.LaunchResponse, code, path string) {
	t.Helper()
	for _, r := range resp.GetRefused().GetReasons() {
		if r.GetCode() == code && r.GetLayer() != "" && (path == "" || r.GetPath() == path) {
			return
		}
	}
	t.Errorf("answer %v, wanted a refusal with %s of %q", resp, code, path)
}

// TestImageFilesMixedUp puts the files of layers in each other's place, and
// things beside them.
func TestImageFilesMixedUp(t *testing.T) {
	s := erofsStage(t, "mixed")
	p := newPacked(t, s, "mixed")
	if _, err := s.Import(t.Context(), "mixed", tamper.Erofs, s.Other); err != nil {
		t.Fatal(err)
	}
	other, err := s.View(t.Context(), "mixed", tamper.Erofs, s.Other)
	if err != nil {
		t.Fatal(err)
	}
	files := p.files.Inside
	for _, c := range []struct {
		name, code, script string
	}{
		{"swapped", "layer-content", "mv " + files[1] + " /srv/x; mv " + files[2] + " " + files[1] + "; mv /srv/x " + files[2]},
		{"one twice", "layer-content", "cp --remove-destination " + files[1] + " " + files[2]},
		{"another image's", "layer-content", "cp --remove-destination " + other[0].Source + " " + files[2]},
		{"missing", "", "rm " + files[1]},
		{"a directory", "", "rm " + files[1] + "; mkdir " + files[1]},
		{"a link to another", "", "ln -sf " + files[2] + " " + files[1]},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.restore(t)
			p.bind(t)
			if _, err := s.Shell(t.Context(), c.script); err != nil {
				t.Fatal(err)
			}
			id := "c-" + strings.ReplaceAll(strings.ReplaceAll(c.name, " ", "-"), "'", "")
			out, err := p.run(t, id)
			if err == nil {
				t.Fatalf("started, and wrote %q", out)
			}
			if err := s.Left(t.Context(), p.ns, id); err != nil {
				t.Error(err)
			}
			if c.code == "" {
				return // containerd does not take it either
			}
			if r, err := s.Find(p.ns, id); err != nil || r.Type != "refusal" || !hasCode(r.Reasons, c.code) {
				t.Errorf("the log says %s (%v), wanted a refusal with %s", r, err, c.code)
			}
		})
	}
	t.Run("claims beside a file", func(t *testing.T) {
		p.restore(t)
		for _, f := range p.files.Paths() {
			claim := []byte(`{"roothash":"` + strings.Repeat("0", 64) + `","hashoffset":4096}`)
			for _, name := range []string{".dmverity", ".verity", ".fsverity"} {
				if err := os.WriteFile(f+name, claim, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		p.bind(t) // class blob: what is claimed and cannot be checked raises nothing
		if out, err := p.run(t, "claimed"); err == nil {
			t.Errorf("the kernel cannot check the claim, and it started: %q", out)
		}
	})
}

// imageChains are roots other than the image's, given by a client of containerd.
var imageChains = []struct {
	name, code string
	// change gets the mounts, the topmost layer first and the overlay last.
	change func(p *packed, m, other []mount.Mount) []mount.Mount
}{
	{"extra file on top", "layer-count", func(_ *packed, m, other []mount.Mount) []mount.Mount {
		return append([]mount.Mount{other[0]}, m...)
	}},
	{"missing file", "layer-count", func(_ *packed, m, _ []mount.Mount) []mount.Mount { return m[1:] }},
	{"files in another order", "layer-content", func(_ *packed, m, _ []mount.Mount) []mount.Mount {
		m[0], m[1] = m[1], m[0]
		return m
	}},
	{"another image's file", "layer-content", func(_ *packed, m, other []mount.Mount) []mount.Mount { m[0] = other[0]; return m }},
	{"a file twice", "layer-content", func(_ *packed, m, _ []mount.Mount) []mount.Mount { m[0] = m[1]; return m }},
	{"attributes not shown", "mount-option", func(_ *packed, m, _ []mount.Mount) []mount.Mount {
		m[0].Options = []string{"ro", "nouser_xattr"}
		return m
	}},
	{"access lists not shown", "mount-option", func(_ *packed, m, _ []mount.Mount) []mount.Mount {
		m[0].Options = []string{"ro", "noacl"}
		return m
	}},
	// What is measured is at the beginning of the file, what is mounted behind it.
	{"another image behind", "mount-option", func(p *packed, m, other []mount.Mount) []mount.Mount {
		m[0].Options = []string{"ro", "fsoffset=" + p.behind(m[0].Source, other[0].Source)}
		return m
	}},
	{"a file in the upper", "upper-not-empty", func(p *packed, m, _ []mount.Mount) []mount.Mount {
		for _, o := range m[len(m)-1].Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				p.sh("touch " + dir + "/evil")
			}
		}
		return m
	}},
	{"an overlay option", "mount-option", func(_ *packed, m, _ []mount.Mount) []mount.Mount {
		m[len(m)-1].Options = append(m[len(m)-1].Options, "redirect_dir=follow")
		return m
	}},
}

func (p *packed) sh(script string) string {
	out, err := p.s.Shell(p.ctx, script)
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(out)
}

// behind appends an image to a file and says where it begins.
func (p *packed) behind(file, evil string) string {
	return p.sh("n=$(stat -c %s " + file + "); cp " + file + " " + file + ".new; cat " + evil + " >> " + file + ".new; mv " + file + ".new " + file + "; echo $n")
}

// TestMountedImageFiles gives tasks other roots than their images'.
func TestMountedImageFiles(t *testing.T) {
	s := erofsStage(t, "filechain")
	p := newPacked(t, s, "filechain")
	ctx := namespaces.WithNamespace(t.Context(), p.ns)
	if _, err := s.Import(ctx, p.ns, tamper.Erofs, s.Other); err != nil {
		t.Fatal(err)
	}
	other, err := s.View(ctx, p.ns, tamper.Erofs, s.Other)
	if err != nil {
		t.Fatal(err)
	}
	try := func(t *testing.T, id string, change func(p *packed, m, other []mount.Mount) []mount.Mount) error {
		t.Helper()
		c, mounts, err := s.CreateApart(ctx, p.ns, id, tamper.Erofs, p.img)
		if err != nil {
			t.Fatal(err)
		}
		n := len(mounts)
		if mounts = change(p, mounts, slices.Clone(other)); len(mounts) != n {
			last := &mounts[len(mounts)-1]
			for i, o := range last.Options {
				last.Options[i] = strings.Replace(o, "{{ overlay 0 2 }}", "{{ overlay 0 "+string(rune('0'+len(mounts)-2))+" }}", 1)
			}
		}
		task, err := c.NewTask(ctx, cio.NullIO, containerd.WithRootFS(mounts))
		if err == nil {
			if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(c.Delete(ctx), s.Client.SnapshotService(tamper.Erofs).Remove(ctx, id)); err != nil {
			t.Errorf("not removable: %v", err)
		}
		return err
	}
	if err := try(t, "passes", func(_ *packed, m, _ []mount.Mount) []mount.Mount { return m }); err != nil {
		t.Fatalf("untampered: %v", err)
	}
	for i, c := range imageChains {
		t.Run(c.name, func(t *testing.T) {
			p.restore(t)
			id := "c" + string(rune('a'+i))
			if err := try(t, id, c.change); err == nil || !strings.Contains(err.Error(), "sealift refused "+p.ns+"/"+id) {
				t.Errorf("the error is %v", err)
			}
			if err := s.Left(t.Context(), p.ns, id); err != nil {
				t.Error(err)
			}
			if r, err := s.Find(p.ns, id); err != nil || r.Type != "refusal" || !hasCode(r.Reasons, c.code) {
				t.Errorf("the log says %s (%v), wanted a refusal with %s", r, err, c.code)
			}
		})
	}
	t.Run("part of a file by a loop device", func(t *testing.T) {
		p.restore(t)
		file := p.files.Inside[2]
		at := p.behind(file, other[0].Source)
		dir := p.files.Mounted()[2]
		if err := p.files.Mount(""); err != nil {
			t.Fatal(err)
		}
		defer p.unmount(t)
		p.sh("umount " + dir + "; mount -t erofs -o ro,loop,offset=" + at + " " + file + " " + dir)
		verdict(t, p.ask(t), "mount-option")
		p.sh("umount " + dir + "; mount -t erofs -o ro,loop " + file + " " + dir)
		verdict(t, p.ask(t), "")
	})
	t.Run("part of an image", func(t *testing.T) {
		p.restore(t)
		dir := p.files.Mounted()[2]
		if err := p.files.Mount(""); err != nil {
			t.Fatal(err)
		}
		defer p.unmount(t)
		p.sh("mount --bind " + filepath.Join(dir, "etc") + " " + dir)
		verdict(t, p.ask(t), "mount-type")
		p.sh("umount " + dir)
		verdict(t, p.ask(t), "")
	})
}

// TestReadOnlyImageFiles: without an upper the topmost image's root is the
// container's.
func TestReadOnlyImageFiles(t *testing.T) {
	s := erofsStage(t, "readonly")
	p := newPacked(t, s, "readonly")
	ctx := namespaces.WithNamespace(t.Context(), p.ns)
	start := func(id string) error {
		c, err := s.Client.NewContainer(ctx, id, containerd.WithSnapshotter(tamper.Erofs), containerd.WithImage(p.img),
			containerd.WithNewSnapshotView(id, p.img), containerd.WithRuntime(node.Sealift, nil), tamper.Spec(oci.WithRootFSReadonly()))
		if err != nil {
			t.Fatal(err)
		}
		return task(ctx, c)
	}
	if err := start("untampered"); err != nil {
		t.Fatalf("untampered: %v", err)
	}
	for name, change := range map[string]func(top string) error{
		"mode":  func(top string) error { return os.Chmod(top, 0o700) },
		"owner": func(top string) error { return os.Chown(top, 1000, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := p.files.Repack(t.Context(), func(l []string) error { return change(l[2]) }); err != nil {
				t.Fatal(err)
			}
			if err := start(name); err == nil {
				t.Error("started")
			}
			if r, err := s.Find(p.ns, name); err != nil || r.Type != "refusal" || !hasCode(r.Reasons, "root-attributes") {
				t.Errorf("the log says %s (%v), wanted a refusal with root-attributes", r, err)
			}
		})
	}
}
