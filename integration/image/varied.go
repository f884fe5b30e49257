package image

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Varied is an image of a few layers with a bit of everything that images can
// have, different for each seed: up to a MiB, and no program in it.
func Varied(seed uint64) Spec {
	v := &varied{Rand: rand.New(rand.NewPCG(seed, 0x1a7e5)), tree: map[string]byte{}}
	s := Spec{Name: fmt.Sprintf("sealift.test/varied-%d:1", seed), Config: v1.ImageConfig{Cmd: []string{"/none"}}}
	for i := range 1 + v.IntN(5) {
		// The entries are chosen now, so that a layer is the same each time it is
		// written, and written later.
		s.Layers = append(s.Layers, v.layer(i, seed%10 == 3 && i == 0))
		s.Compression = append(s.Compression, []Compression{Gzip, Zstd, None}[v.IntN(3)])
	}
	return s
}

type entry struct {
	header  tar.Header
	content []byte
	sparse  int64
}

// varied is an image in the making. Its layers do as builders do: what they
// remove comes first, directories before what is in them.
type varied struct {
	*rand.Rand
	tree    map[string]byte // what the layers below have, by path: its type
	named   []string        // directories that this layer names
	files   []string        // regular files of this layer
	taken   map[string]bool // paths that this layer has an entry for
	entries []entry
}

func (v *varied) layer(n int, sparse bool) Layer {
	v.named, v.files, v.taken, v.entries = nil, nil, map[string]bool{}, nil
	v.remove()
	if n == 0 {
		v.dir("etc")
		v.dir("usr")
	}
	for range 4 + v.IntN(24) {
		v.add(n)
	}
	if sparse {
		v.entries = append(v.entries, entry{header: tar.Header{Name: fmt.Sprintf("sparse-%d", n)}, sparse: 3 << 20})
		v.tree[fmt.Sprintf("sparse-%d", n)] = tar.TypeReg
	}
	entries := v.entries
	return func(w *Writer) error {
		for _, e := range entries {
			if e.sparse > 0 {
				if err := w.Sparse(e.header.Name, e.sparse, uint64(n)); err != nil {
					return err
				}
				continue
			}
			h := e.header
			if err := w.Header(&h, e.content); err != nil {
				return err
			}
		}
		return nil
	}
}

func (v *varied) put(h tar.Header, content []byte) {
	h.ModTime = epoch.Add(time.Duration(v.IntN(1_000_000)) * time.Second)
	if v.IntN(5) == 0 {
		h.ModTime = h.ModTime.Add(time.Duration(v.IntN(1e9)))
	}
	v.entries = append(v.entries, entry{header: h, content: content})
	if p := strings.TrimSuffix(h.Name, "/"); !strings.HasPrefix(path.Base(p), ".wh.") {
		v.tree[p], v.taken[p] = h.Typeflag, true
	}
}

// lower are paths of the layers below, sorted: a map's order is not seeded.
func (v *varied) lower(kind byte) (out []string) {
	for p, t := range v.tree {
		if t == kind && !v.taken[p] {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

func (v *varied) forget(dir string) {
	for p := range v.tree {
		if strings.HasPrefix(p, dir+"/") {
			delete(v.tree, p)
		}
	}
}

// remove hides some of what lies below. What it hides is not named again.
func (v *varied) remove() {
	for _, p := range v.lower(tar.TypeDir) {
		if _, there := v.tree[p]; !there || strings.Contains(p, "/") || v.taken[p] {
			continue
		}
		switch v.IntN(8) {
		case 0: // opaque
			v.forget(p)
			v.dir(p)
			v.put(tar.Header{Typeflag: tar.TypeReg, Name: p + "/.wh..wh..opq"}, nil)
		case 1:
			if p == "etc" || p == "usr" {
				continue
			}
			v.put(tar.Header{Typeflag: tar.TypeReg, Name: ".wh." + p}, nil)
			v.forget(p)
			delete(v.tree, p)
			v.taken[p] = true
		}
	}
	for _, p := range v.lower(tar.TypeReg) {
		if v.IntN(6) == 0 {
			v.put(tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(p), ".wh."+path.Base(p))}, nil)
			delete(v.tree, p)
			v.taken[p] = true
		}
	}
}

func (v *varied) dir(p string) {
	mode := []int64{0o755, 0o755, 0o700, 0o1777, 0o2755, 0o750}[v.IntN(6)]
	v.put(tar.Header{Typeflag: tar.TypeDir, Name: p + "/", Mode: mode, Uid: v.IntN(2) * 1000, Gid: v.IntN(2) * 50}, nil)
	v.named = append(v.named, p)
}

var variedNames = []string{"plain", "with space", "Ünïcødé", "名前", "e\u0301", "\u00e9", "not-utf-8-\xff\xfe", "new\nline", "-dash", ".hidden",
	"back\\slash", strings.Repeat("long", 60), "UPPER", "upper", "a.wh.b"}

// fresh is a path that nothing has yet, in a directory of this layer, in the
// root, or in one that this layer does not name.
func (v *varied) fresh(n int) string {
	name := fmt.Sprintf("%s-%d-%d", variedNames[v.IntN(len(variedNames))], n, len(v.entries))
	if len(name) > 255 {
		name = name[len(name)-255:]
	}
	switch v.IntN(8) {
	case 0:
		return name
	case 1: // a parent that this layer does not name, and may be below
		return fmt.Sprintf("implied-%d/%s", v.IntN(3), name)
	case 2:
		return fmt.Sprintf("%s/%s", strings.Repeat("deep-directory/", 8)+fmt.Sprint(n), name)
	}
	if len(v.named) == 0 {
		return name
	}
	return path.Join(v.named[v.IntN(len(v.named))], name)
}

// netRaw is cap_net_raw=ep (capabilities(7), VFS_CAP_REVISION_2).
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func (v *varied) add(n int) {
	p := v.fresh(n)
	content := random(v.IntN([]int{1, 100, 5000, 60_000}[v.IntN(4)]+1), v.Uint64())
	switch v.IntN(14) {
	case 0, 1:
		v.dir(p)
	case 2:
		v.put(tar.Header{Typeflag: tar.TypeSymlink, Name: p, Linkname: []string{"/etc", "nowhere", "../../..", "名前", "\xff"}[v.IntN(5)], Mode: 0o777}, nil)
	case 3:
		if len(v.files) > 0 {
			v.put(tar.Header{Typeflag: tar.TypeLink, Name: p, Linkname: v.files[v.IntN(len(v.files))], Mode: 0o600, Uid: 7}, nil)
		}
	case 4:
		v.put(tar.Header{Typeflag: tar.TypeFifo, Name: p, Mode: 0o640}, nil)
	case 5:
		v.put(tar.Header{Typeflag: tar.TypeChar, Name: p, Mode: 0o666, Devmajor: 1, Devminor: int64(3 + v.IntN(5))}, nil)
	case 6: // a link as a parent
		real, link := fmt.Sprintf("real-%d-%d", n, len(v.entries)), fmt.Sprintf("link-%d-%d", n, len(v.entries))
		v.dir(real)
		v.put(tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: []string{"/", ""}[v.IntN(2)] + real, Mode: 0o777}, nil)
		v.put(tar.Header{Typeflag: tar.TypeReg, Name: link + "/through", Mode: 0o644}, content)
		delete(v.tree, link+"/through")
		v.tree[real+"/through"] = tar.TypeReg
	case 7: // another one of what is below
		if below := v.lower(tar.TypeReg); len(below) > 0 {
			p = below[v.IntN(len(below))]
			v.put(tar.Header{Typeflag: tar.TypeReg, Name: p, Mode: 0o644}, content)
		}
	case 8:
		v.file(p, 0o755, content, map[string]string{"SCHILY.xattr.security.capability": netRaw})
	case 9:
		v.file(p, 0o644, content, map[string]string{"SCHILY.xattr.user.label": string(random(40, v.Uint64()))})
	default:
		v.file(p, []int64{0o644, 0o600, 0o4755, 0o2755, 0o6711, 0o444, 0}[v.IntN(7)], content, nil)
	}
}

func (v *varied) file(p string, mode int64, content []byte, pax map[string]string) {
	v.put(tar.Header{Typeflag: tar.TypeReg, Name: p, Mode: mode, Uid: v.IntN(3) * 500, Gid: v.IntN(3) * 500, PAXRecords: pax}, content)
	v.files = append(v.files, p)
}
