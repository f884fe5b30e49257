package applyoracle

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"time"
)

// header is one tar entry as bytes go to the wire. archive/tar's own writer
// refuses much of what a reader accepts, so entries are put together here.
type header struct {
	typ          byte
	name, link   string
	mode         int64
	uid, gid     int64
	mtime        time.Time
	major, minor int64
	body         []byte
	pax          map[string]string
	gnu          bool // long names as GNU entries instead of PAX records
	globalPAX    bool
}

// rawTar collects entries.
type rawTar struct{ bytes.Buffer }

func (t *rawTar) end() []byte {
	t.Write(make([]byte, 1024))
	return t.Bytes()
}

func (t *rawTar) add(h header) {
	pax := map[string]string{}
	for k, v := range h.pax {
		pax[k] = v
	}
	if h.globalPAX {
		t.block('g', h.name, "", 0o644, 0, 0, time.Time{}, 0, 0, paxBody(pax))
		return
	}
	long := func(typ byte, key string, s *string) {
		if len(*s) <= 100 {
			return
		}
		if h.gnu {
			t.block(typ, "././@LongLink", "", 0, 0, 0, time.Time{}, 0, 0, append([]byte(*s), 0))
		} else {
			pax[key] = *s
		}
		*s = (*s)[:100]
	}
	long('L', "path", &h.name)
	long('K', "linkpath", &h.link)
	if s := h.mtime.Unix(); s < 0 || s > 0o77777777777 || h.mtime.Nanosecond() != 0 {
		pax["mtime"] = paxTime(h.mtime)
		h.mtime = time.Unix(0, 0)
	}
	for key, id := range map[string]*int64{"uid": &h.uid, "gid": &h.gid} {
		if *id < 0 || *id > 0o7777777 {
			pax[key] = strconv.FormatInt(*id, 10)
			*id = 0
		}
	}
	if len(pax) > 0 {
		t.block('x', "PaxHeaders/x", "", 0o644, 0, 0, time.Time{}, 0, 0, paxBody(pax))
	}
	t.block(h.typ, h.name, h.link, h.mode, h.uid, h.gid, h.mtime, h.major, h.minor, h.body)
}

func paxTime(at time.Time) string {
	if at.Nanosecond() == 0 {
		return strconv.FormatInt(at.Unix(), 10)
	}
	if at.Unix() < 0 {
		return fmt.Sprintf("-%d.%09d", -at.Unix()-1, 1e9-at.Nanosecond())
	}
	return fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond())
}

func paxBody(records map[string]string) []byte {
	keys := make([]string, 0, len(records))
	for k := range records {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var out []byte
	for _, k := range keys {
		rest := " " + k + "=" + records[k] + "\n"
		n := len(rest)
		for n != len(rest)+len(strconv.Itoa(n)) {
			n = len(rest) + len(strconv.Itoa(n))
		}
		out = append(append(out, strconv.Itoa(n)...), rest...)
	}
	return out
}

func (t *rawTar) block(typ byte, name, link string, mode, uid, gid int64, mtime time.Time, major, minor int64, body []byte) {
	var b [512]byte
	octal := func(at, n int, v int64) {
		if v >= 0 && v < 1<<(3*(n-1)) {
			copy(b[at:], fmt.Sprintf("%0*o\x00", n-1, v))
			return
		}
		for i := n - 1; i >= 0; i-- { // base 256
			b[at+i] = byte(v)
			v >>= 8
		}
		b[at] |= 0x80
	}
	copy(b[0:100], name)
	octal(100, 8, mode)
	octal(108, 8, uid)
	octal(116, 8, gid)
	octal(124, 12, int64(len(body)))
	if mtime.IsZero() {
		mtime = time.Unix(0, 0)
	}
	octal(136, 12, mtime.Unix())
	copy(b[148:], "        ")
	b[156] = typ
	copy(b[157:257], link)
	copy(b[257:], "ustar\x0000")
	octal(329, 8, major)
	octal(337, 8, minor)
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	t.Write(b[:])
	t.Write(body)
	if pad := len(body) % 512; pad > 0 {
		t.Write(make([]byte, 512-pad))
	}
}
