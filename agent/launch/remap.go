package launch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sealift/sealift/agent/inventory"
	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/chain"
	"github.com/sealift/sealift/measure/layer"
	"github.com/sealift/sealift/measure/tree"
)

// RemapRecord says that the container sees the image's owners shifted by its user
// namespace's mapping, and how.
type RemapRecord struct {
	// How is "chown", a layer above the image's in which every owner was changed
	// (with the native snapshotter, the copy itself), or "idmap", a mapping of
	// the mount.
	How string      `json:"how"`
	UID layer.IDMap `json:"uid"`
	GID layer.IDMap `json:"gid"`
	// SpecialBits says what chown left of the set-user-ID and set-group-ID bits,
	// "kept" or "dropped"; it is empty where the image has none.
	SpecialBits string `json:"special_bits,omitempty"`
}

// Ways of remapping.
const (
	byChown = "chown"
	byIDMap = "idmap"
)

// userns is the mapping of a container's user namespace.
type userns struct{ uid, gid layer.IDMap }

// usernsOf returns the spec's mapping, nil without a user namespace of its own.
func usernsOf(s *specs.Spec) (*userns, error) {
	own := false
	for _, n := range s.Linux.Namespaces {
		own = own || n.Type == specs.UserNamespace
	}
	if !own || len(s.Linux.UIDMappings) == 0 || len(s.Linux.GIDMappings) == 0 {
		return nil, nil
	}
	var u userns
	var err error
	if u.uid, err = idMap(s.Linux.UIDMappings); err != nil {
		return nil, err
	}
	u.gid, err = idMap(s.Linux.GIDMappings)
	return &u, err
}

func idMap(in []specs.LinuxIDMapping) (layer.IDMap, error) {
	var out []layer.IDRange
	for _, m := range in {
		out = append(out, layer.IDRange{Container: m.ContainerID, Host: m.HostID, Size: m.Size})
	}
	return layer.NewIDMap(out)
}

// root is what the host calls the namespace's root.
func (u *userns) root() (chain.Owner, bool) {
	uid, uok := u.uid.Host(0)
	gid, gok := u.gid.Host(0)
	return chain.Owner{UID: uid, GID: gid}, uok && gok
}

func (u *userns) String() string { return u.uid.String() + " " + u.gid.String() }

// remapping finds out whether the owners that the container sees are the image's
// shifted by the mapping of its own user namespace. Any other mapping is refused.
func (f *Finding) remapping() {
	refuse := func(format string, args ...any) {
		f.Facts.Content = append(f.Facts.Content, &nodev1.Reason{Code: "id-mapping", Subject: "rootfs", Message: fmt.Sprintf(format, args...),
			Hint: "mount the image's layers with the user namespace's own mapping, or with none"})
	}
	u, err := usernsOf(f.Spec)
	if err != nil {
		refuse("config.json: %v", err)
		return
	}
	how := ""
	switch {
	case f.chain.UIDMap != "":
		how = byIDMap
	case u != nil && f.Image != nil && f.chain.Kind == chain.Overlay && len(f.Image.Layers) > 0 && len(f.chain.Lowers) == len(f.Image.Layers)+1:
		how = byChown
	default:
		f.userns = u
		return
	}
	if u == nil {
		refuse("its owners are mapped by uidmap=%s, and config.json has no user namespace with a mapping", f.chain.UIDMap)
		return
	}
	if how == byIDMap {
		uid, uerr := layer.ParseIDMap(f.chain.UIDMap)
		gid, gerr := layer.ParseIDMap(f.chain.GIDMap)
		if err := errors.Join(uerr, gerr); err != nil || uid.String() != u.uid.String() || gid.String() != u.gid.String() {
			refuse("its owners are mapped by uidmap=%s gidmap=%s, and config.json maps %s and %s", f.chain.UIDMap, f.chain.GIDMap, u.uid, u.gid)
			return
		}
	}
	root, ok := u.root()
	if !ok {
		refuse("config.json maps no root: %s and %s", u.uid, u.gid)
		return
	}
	f.userns = u
	f.Record.Root.Remap = &RemapRecord{How: how, UID: u.uid, GID: u.gid}
	// A mapping of the mount is of the lowers, whose own root stays the host's.
	if how == byChown || f.chain.Upper != "" {
		f.owner = root
	}
}

// remapHint is what helps against a remapped layer that was changed: containerd
// keeps it for the next container of the image and mapping.
const remapHint = "remove the container and the remapped snapshot that its own stands on (ctr snapshot info CONTAINER names the parent), and create it again"

// remapped measures the layer that containerd's client put above the image's
// by changing every owner, against what that makes of the image's layers.
func (x *Examiner) remapped(ctx context.Context, d *inventory.Daemon, ns string, f *Finding) (LayerRecord, []*nodev1.Reason) {
	lower := f.chain.Lowers[len(f.Image.Layers)]
	rec := LayerRecord{Class: string(tree.ClassNone)}
	if f.measured == nil {
		rec.Why = "the layers below are not the image's, so there is nothing to compare it with"
		return rec, nil
	}
	m, want, err := x.remappedLayer(ctx, d, ns, lower, f)
	if err != nil {
		return rec, []*nodev1.Reason{remapError(lower.Path(), err)}
	}
	rec.Wanted, rec.Found, rec.Class, rec.Why = want.String(), m.Digest.String(), string(m.Class), m.Why
	if m.Digest == want && len(m.Differences) == 0 {
		return rec, nil
	}
	name := fmt.Sprintf("%d, remapped", len(f.measured)+1)
	return rec, withHint(differences(name, rec.Wanted, rec.Found, m.Differences), remapHint)
}

func withHint(reasons []*nodev1.Reason, hint string) []*nodev1.Reason {
	for _, r := range reasons {
		r.Hint = hint
	}
	return reasons
}

func remapError(path string, err error) *nodev1.Reason {
	var unmapped *layer.UnmappedError
	if errors.As(err, &unmapped) {
		return &nodev1.Reason{Code: "id-mapping", Path: "/" + unmapped.Path, Message: fmt.Sprintf("belongs to %d:%d in the image, which the user namespace does not map", unmapped.UID, unmapped.GID),
			Hint: "give the user namespace a mapping that has every owner in the image"}
	}
	return layerError(inventory.Layer{DiffID: "remapped"}, chain.Lower{Dir: path}, err)
}

func (x *Examiner) remappedLayer(ctx context.Context, d *inventory.Daemon, ns string, lower chain.Lower, f *Finding) (*Measured, layer.Digest, error) {
	manifest := func() (*layer.Manifest, error) {
		found, err := x.found(ctx, d, ns, f.Image.Layers, f.measured)
		if err != nil {
			return nil, err
		}
		return layer.Overlaid(found)
	}
	key := chainKey(f.measured)
	if key != "" {
		key += f.userns.String()
	}
	want, ok := x.Layers.remaps.get(key)
	if !ok {
		m, err := manifest()
		if err == nil {
			want, err = f.userns.expect(m)
		}
		if err != nil {
			return nil, layer.Digest{}, err
		}
		x.Layers.remaps.put(key, want)
	}
	dir := lower.Dir
	if dir == "" {
		dir = lower.Mountpoint
	}
	digest, kept := want.kept, true
	if want.special != nil {
		if kept = keepsBits(dir, want.special); !kept {
			digest = want.dropped
		}
		f.Record.Root.Remap.SpecialBits = bitsName(kept)
	}
	m, err := x.Layers.Measure(ctx, lower.Path(), Options{Blob: lower.Blob != "", CopiedUp: true, Wanted: digest,
		Want: func() (*layer.Manifest, error) {
			m, err := manifest()
			if err != nil {
				return nil, err
			}
			return m.Chowned(f.userns.uid, f.userns.gid, kept)
		}})
	return m, digest, err
}

func bitsName(kept bool) string {
	if kept {
		return "kept"
	}
	return "dropped"
}

// found is what the image's layers are on the disk, bottom first.
func (x *Examiner) found(ctx context.Context, d *inventory.Daemon, ns string, image []inventory.Layer, measured []*Measured) ([]layer.Found, error) {
	found := make([]layer.Found, len(image))
	for i, l := range image {
		m, err := x.References.Manifest(ctx, ns, l, measured[i].Digest, d)
		if err == nil && m == nil {
			err = inventory.ErrNotFound
		}
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.DiffID, err)
		}
		found[i] = layer.Found{Manifest: m, Implied: measured[i].Implied}
	}
	return found, nil
}

// remapWant is what a remapped layer may measure to.
type remapWant struct {
	kept, dropped layer.Digest
	// special is an entry by whose mode the two can be told apart; nil when they
	// are one.
	special *layer.Record
}

func (u *userns) expect(m *layer.Manifest) (w remapWant, err error) {
	kept, err := m.Chowned(u.uid, u.gid, true)
	if err != nil {
		return w, err
	}
	w.kept = kept.Digest()
	r := kept.Special()
	if r == nil {
		return w, nil
	}
	dropped, err := m.Chowned(u.uid, u.gid, false)
	if err != nil {
		return w, err
	}
	w.dropped, w.special = dropped.Digest(), &layer.Record{Path: strings.Clone(r.Path), Mode: r.Mode}
	return w, nil
}

// keepsBits says whether the entry still has its special bits. It only chooses
// what all of the directory must then be equal to.
func keepsBits(dir string, r *layer.Record) bool {
	st, err := statBeneath(dir, r.Path)
	return err != nil || st.Mode&0o7777 == uint32(r.Mode)
}

func statBeneath(dir, path string) (st unix.Stat_t, err error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	return st, unix.Fstat(fd, &st)
}

// remaps remembers what remapped layers must measure to, by the bindings of the
// layers below and the mapping.
type remaps struct {
	mu sync.Mutex
	m  map[string]remapWant
}

func (r *remaps) get(key string) (remapWant, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.m[key]
	return w, ok && key != ""
}

func (r *remaps) put(key string, w remapWant) {
	if key == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil || len(r.m) >= maxJudged {
		r.m = map[string]remapWant{}
	}
	r.m[key] = w
}

// remappedTree is the cumulative tree that the native snapshotter's copy in dir
// must be: the merged layers, or these with every owner changed. Which of the
// two is asked of one entry, and then holds for all.
func (f *Finding) remappedTree(dir string, m *layer.Manifest) (*layer.Manifest, error) {
	if f.userns == nil {
		return m, nil
	}
	chowned, err := m.Chowned(f.userns.uid, f.userns.gid, true)
	if err != nil {
		// Then it was not remapped, or it is another image's.
		return m, nil
	}
	for i := range chowned.Records {
		r := &chowned.Records[i]
		if r.UID == m.Records[i].UID && r.GID == m.Records[i].GID {
			continue
		}
		st, err := statBeneath(dir, r.Path)
		if err != nil || st.Uid != r.UID || st.Gid != r.GID {
			return m, nil
		}
		break
	}
	f.Record.Root.Remap = &RemapRecord{How: byChown, UID: f.userns.uid, GID: f.userns.gid}
	if s := chowned.Special(); s != nil {
		kept := keepsBits(dir, s)
		f.Record.Root.Remap.SpecialBits = bitsName(kept)
		if !kept {
			return m.Chowned(f.userns.uid, f.userns.gid, false)
		}
	}
	return chowned, nil
}
