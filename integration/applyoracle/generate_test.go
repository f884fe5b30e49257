package applyoracle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"github.com/sealift/sealift/measure/layer"
)

// generator makes random layer tars: few names, so that entries meet.
type generator struct {
	*rand.Rand
	tar   rawTar
	files []string // names that were regular files, links or devices
	dirs  []string
	all   []string
	gnu   bool
	odd   int // one entry in so many is one that rarely has a meaning
}

var names = []string{"a", "b", "c", "a-b", "a.b", "é", "\xff\xfe", "x y", "wh", ".wx", "A", "ab"}

var linkTargets = []string{
	"a", "b", "b/c", "../a", "../b", "/a", "/b", "/a/b", ".", "..", "../..", "/", "../../../../c",
	"nowhere", "a/../b", "./c", "b/", "//c", "/b/./c", "é", "\xff\xfe",
}

var modes = []int64{0, 0o644, 0o755, 0o600, 0o4755, 0o2755, 0o6711, 0o1777, 0o7777, 0o100644, 0o40755, 0o200755}

// generate makes the tar of a seed. Three seeds of four try every entry first
// and mostly leave out what would make the whole tar meaningless, which random
// entries do all too often; the fourth leaves everything in.
func generate(seed uint64, entries int) []byte {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 7)), odd: 40}
	careful := seed%4 != 0
	g.gnu = g.IntN(4) == 0
	if g.IntN(3) == 0 {
		g.tar.add(header{typ: '5', name: pick(g, []string{"./", ".", "/"}), mode: 0o700, uid: 7, mtime: g.time()})
	}
	for range 1 + g.IntN(entries) {
		before := g.tar.Len()
		if g.IntN(g.odd) == 0 {
			g.oddity()
		} else {
			g.entry()
		}
		if !careful || g.IntN(300) == 0 {
			continue
		}
		if _, err := layer.FromTar(bytes.NewReader(g.tar.Bytes())); err != nil && !late(err) {
			g.tar.Truncate(before)
		}
	}
	return g.tar.end()
}

// late reports a refusal that only the whole tar can earn: a later entry may
// still heal it, and FromTar must be seen to find it.
func late(err error) bool {
	var m *layer.MeaninglessError
	return errors.As(err, &m) && m.Reason == layer.ReasonTime
}

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

// path makes a name for a new entry, mostly below a directory there is.
func (g *generator) path() string {
	name := pick(g, names)
	switch g.IntN(12) {
	case 0:
		name = strings.Repeat(name, 1+g.IntN(120/len(name)))
	case 1:
		name = pick(g, names) + "/" + name // an implied parent, perhaps
	}
	p := name
	if len(g.dirs) > 0 && g.IntN(4) != 0 {
		p = path.Join(pick(g, g.dirs), name)
	}
	if strings.Count(p, "/") > 8 {
		p = name
	}
	switch g.IntN(20) {
	case 0:
		p = "./" + p
	case 1:
		p = "/" + p
	case 2:
		p = strings.ReplaceAll(p, "/", "//")
	}
	return p
}

func (g *generator) existing(of []string) string {
	if len(of) == 0 || g.IntN(60) == 0 {
		return g.path()
	}
	return pick(g, of)
}

func (g *generator) time() time.Time {
	switch g.IntN(16) {
	case 0:
		return time.Unix(0, 0)
	case 1:
		return time.Unix(-5, 0)
	case 2:
		return time.Unix(1<<33, 0)
	case 3:
		return time.Unix(9223372036, 854775807)
	case 4:
		return time.Unix(9223372036, 854775808)
	case 5:
		return time.Unix(1<<40, 0)
	case 6:
		return time.Unix(1_600_000_000, 999_999_999)
	case 7:
		return time.Unix(-1, 500_000_000)
	}
	return time.Unix(1_500_000_000+int64(g.IntN(1<<27)), 0)
}

func (g *generator) base(typ byte, name string) header {
	h := header{typ: typ, name: name, mode: pick(g, modes), mtime: g.time(), gnu: g.gnu}
	if g.IntN(3) == 0 {
		h.uid, h.gid = int64(g.IntN(3)*1000), int64(g.IntN(3)*100)
	}
	if g.IntN(50) == 0 {
		h.uid = 4294967294
	}
	if g.IntN(6) == 0 {
		h.pax = g.xattrs(typ)
	}
	if g.IntN(10) == 0 {
		if h.pax == nil {
			h.pax = map[string]string{}
		}
		h.pax["atime"] = "1700000000.25"
	}
	return h
}

func (g *generator) xattrs(typ byte) map[string]string {
	out := map[string]string{}
	for range 1 + g.IntN(3) {
		switch g.IntN(9) {
		case 0, 1:
			out["SCHILY.xattr.user."+pick(g, names)] = pick(g, []string{"", "v", "\x00bin", strings.Repeat("long", 200)})
		case 2, 3:
			out["SCHILY.xattr.security.capability"] = g.capability()
		case 4:
			out["SCHILY.xattr.trusted.overlay.redirect"] = "/elsewhere"
		case 5:
			out["SCHILY.xattr.system.posix_acl_access"] = g.acl()
		case 6:
			if typ == '5' {
				out["SCHILY.xattr.system.posix_acl_default"] = g.acl()
			}
		case 7:
			out["SCHILY.xattr.security.selinux"] = "u:r:t:s0"
		case 8:
			out["SCHILY.acl.access"] = "user::rw-"
		}
	}
	return out
}

func (g *generator) capability() string {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0x02000000|uint32(g.IntN(2)))
	b = le.AppendUint64(b, g.Uint64()&0xffffffff)
	b = le.AppendUint64(b, 0)
	if g.IntN(3) == 0 {
		flags := uint32(g.IntN(2))
		if g.IntN(20) == 0 {
			flags = 2 // not a flag the kernel knows
		}
		le.PutUint32(b, 0x03000000|flags)
		b = le.AppendUint32(b, uint32(g.IntN(2)*1000))
	}
	return string(b)
}

func (g *generator) acl() string {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 2)
	add := func(tag uint16, id uint32) {
		b = le.AppendUint16(b, tag)
		b = le.AppendUint16(b, uint16(g.IntN(8)))
		b = le.AppendUint32(b, id)
	}
	named := g.IntN(3) > 0
	add(1, ^uint32(0))
	if named {
		add(2, 1000)
	}
	add(4, ^uint32(0))
	if named && g.IntN(2) == 0 {
		add(8, 100)
	}
	if named || g.IntN(4) == 0 {
		add(0x10, 0)
	}
	add(0x20, ^uint32(0))
	return string(b)
}

// entry adds one ordinary entry.
func (g *generator) entry() {
	name := g.path()
	switch k := g.IntN(24); {
	case k < 6:
		h := g.base('0', name)
		h.body = make([]byte, g.IntN(3)*g.IntN(900))
		for i := range h.body {
			h.body[i] = byte(g.Uint32())
		}
		if g.IntN(12) == 0 {
			h = g.sparse(h)
		}
		g.add(h)
		g.files = append(g.files, name)
	case k < 12:
		if g.IntN(3) == 0 {
			name = g.existing(g.dirs) // once more, or late
		}
		g.add(g.base('5', name+"/"))
		g.dirs = append(g.dirs, name)
	case k < 15:
		h := g.base('2', name)
		h.link = pick(g, linkTargets)
		if len(g.dirs) > 0 && g.IntN(2) == 0 {
			h.link = pick(g, []string{"/", "", "./"}) + pick(g, g.dirs)
		}
		g.add(h)
		g.files = append(g.files, name)
		if g.IntN(3) > 0 {
			g.dirs = append(g.dirs, name) // others will go through it
		}
	case k < 18:
		h := g.base('1', name)
		h.link = g.existing(g.files)
		g.add(h)
		g.files = append(g.files, name)
	case k < 20:
		h := g.base('0', path.Join(path.Dir(name), ".wh."+path.Base(name)))
		if g.seen(name) && g.IntN(30) > 0 {
			return // would hide what this layer brings
		}
		g.tar.add(h)
		g.all = append(g.all, path.Clean(name))
	case k == 20:
		p := ".wh..wh..opq"
		if len(g.dirs) > 0 && g.IntN(20) > 0 {
			p = path.Join(pick(g, g.dirs), p)
		}
		g.tar.add(g.base('0', p))
	case k == 21:
		h := g.base(pick(g, []byte{'3', '4', '6'}), name)
		h.major, h.minor = int64(1+g.IntN(4095)), int64(g.IntN(1<<20))
		g.add(h)
		g.files = append(g.files, name)
	case k == 22:
		h := g.base('0', g.existing(g.all)) // replace something, often another type
		g.add(h)
	case k == 23:
		g.tar.add(header{globalPAX: true, name: pick(g, []string{"pax_global_header", "", name}), pax: map[string]string{"comment": "x"}})
	}
}

func (g *generator) add(h header) {
	g.all = append(g.all, path.Clean(h.name))
	g.tar.add(h)
}

func (g *generator) seen(name string) bool {
	for _, p := range g.all {
		if p == path.Clean(name) || strings.HasPrefix(p, path.Clean(name)+"/") {
			return true
		}
	}
	return false
}

// sparse turns h into a PAX sparse entry of format 1.0.
func (g *generator) sparse(h header) header {
	size := len(h.body) + g.IntN(100_000)
	offset := 0
	if size > len(h.body) {
		offset = g.IntN(size - len(h.body))
	}
	m := fmt.Sprintf("1\n%d\n%d\n", offset, len(h.body))
	block := make([]byte, 512)
	copy(block, m)
	if h.pax == nil {
		h.pax = map[string]string{}
	}
	h.pax["GNU.sparse.major"], h.pax["GNU.sparse.minor"] = "1", "0"
	h.pax["GNU.sparse.name"], h.pax["GNU.sparse.realsize"] = h.name, fmt.Sprint(size)
	h.name = "GNUSparseFile.0/x"
	h.body = append(block, h.body...)
	h.gnu = false
	return h
}

// oddity adds an entry that rarely has a meaning.
func (g *generator) oddity() {
	name := g.path()
	h := g.base('0', name)
	switch g.IntN(14) {
	case 0:
		h.typ = '7'
	case 1:
		h.typ, h.major, h.minor = '3', 0, 0
	case 2:
		h.typ, h.major = '3', 4096
	case 3:
		h.uid = -1
	case 4:
		h.gid = 1 << 32
	case 5:
		h.name = "../" + name
	case 6:
		h.name = path.Join(path.Dir(name), ".wh.")
	case 7:
		h.name = path.Join(path.Dir(name), pick(g, []string{".wh..", ".wh...", ".wh..wh.plnk"}))
	case 8:
		h.pax = map[string]string{"SCHILY.xattr." + pick(g, []string{"security.other", "system.other", "user.", "foo", "user.overlay.redirect"}): "v"}
	case 9:
		h.typ, h.link = '1', "not/there"
	case 10:
		h.typ, h.link = '2', ""
	case 11:
		h.name = strings.Repeat("n", 256)
	case 12:
		h.name = path.Join(name, "below")
	case 13:
		h.pax = map[string]string{"SCHILY.xattr.security.capability": "short"}
	}
	g.add(h)
}
