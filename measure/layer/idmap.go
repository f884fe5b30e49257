package layer

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// IDRange maps Size consecutive ids of a container to the host's
// (user_namespaces(7), uid_map).
type IDRange struct {
	Container uint32 `json:"container"`
	Host      uint32 `json:"host"`
	Size      uint32 `json:"size"`
}

// IDMap maps a container's ids to the host's, sorted by Container.
type IDMap []IDRange

// maxRanges is how many the kernel takes (UID_GID_MAP_MAX_EXTENTS).
const maxRanges = 340

// NewIDMap brings ranges into canonical order. Its error is for what no kernel
// takes: too many ranges, or some that overlap or leave the 32 bits of an id.
func NewIDMap(ranges []IDRange) (IDMap, error) {
	m := slices.DeleteFunc(slices.Clone(ranges), func(r IDRange) bool { return r.Size == 0 })
	if len(m) > maxRanges {
		return nil, fmt.Errorf("%d id mappings: the limit is %d", len(m), maxRanges)
	}
	for _, r := range m {
		if uint64(r.Container)+uint64(r.Size) > math.MaxUint32 || uint64(r.Host)+uint64(r.Size) > math.MaxUint32 {
			return nil, fmt.Errorf("id mapping %s: beyond the last id", r)
		}
	}
	slices.SortFunc(m, func(a, b IDRange) int { return int(int64(a.Container) - int64(b.Container)) })
	for i := range m {
		for _, o := range m[:i] {
			if o.Container+o.Size > m[i].Container || o.Host < m[i].Host+m[i].Size && m[i].Host < o.Host+o.Size {
				return nil, fmt.Errorf("id mappings %s and %s overlap", o, m[i])
			}
		}
	}
	return m, nil
}

// ParseIDMap reads the form of containerd's mount options, C:H:SIZE[,C:H:SIZE…].
func ParseIDMap(s string) (IDMap, error) {
	var out []IDRange
	for text := range strings.SplitSeq(s, ",") {
		f := strings.Split(text, ":")
		if len(f) != 3 {
			return nil, fmt.Errorf("id mapping %q: not CONTAINER:HOST:SIZE", text)
		}
		var n [3]uint32
		for i := range f {
			v, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("id mapping %q: %w", text, err)
			}
			n[i] = uint32(v)
		}
		out = append(out, IDRange{n[0], n[1], n[2]})
	}
	return NewIDMap(out)
}

// Host returns the host's id for a container's, if it has one.
func (m IDMap) Host(id uint32) (uint32, bool) {
	for _, r := range m {
		if id >= r.Container && id-r.Container < r.Size {
			return r.Host + (id - r.Container), true
		}
	}
	return 0, false
}

func (r IDRange) String() string { return fmt.Sprintf("%d:%d:%d", r.Container, r.Host, r.Size) }

// String is the form that ParseIDMap reads.
func (m IDMap) String() string {
	out := make([]string, len(m))
	for i, r := range m {
		out[i] = r.String()
	}
	return strings.Join(out, ",")
}
