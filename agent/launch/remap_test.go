package launch

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sealift/sealift/agent/inventory"
	"github.com/sealift/sealift/measure/chain"
)

// Only a mapping that config.json carries, for a user namespace of the container's
// own, shifts what is wanted; every other one is refused.
func TestRemapping(t *testing.T) {
	maps := func(host uint32) []specs.LinuxIDMapping { return []specs.LinuxIDMapping{{HostID: host, Size: 65536}} }
	own := []specs.LinuxNamespace{{Type: specs.UserNamespace}}
	overlay := func(lowers int, uid, gid string) *chain.Chain {
		return &chain.Chain{Kind: chain.Overlay, Lowers: make([]chain.Lower, lowers), Upper: "/u", UIDMap: uid, GIDMap: gid}
	}
	for name, c := range map[string]struct {
		linux   specs.Linux
		chain   *chain.Chain
		how     string
		owner   chain.Owner
		refused bool
	}{
		"no user namespace":        {chain: overlay(2, "", "")},
		"a layer more and none":    {chain: overlay(3, "", "")},
		"mappings and none":        {linux: specs.Linux{UIDMappings: maps(1000), GIDMappings: maps(2000)}, chain: overlay(3, "", "")},
		"not remapped":             {linux: specs.Linux{Namespaces: own, UIDMappings: maps(1000), GIDMappings: maps(2000)}, chain: overlay(2, "", "")},
		"by chown":                 {linux: specs.Linux{Namespaces: own, UIDMappings: maps(1000), GIDMappings: maps(2000)}, chain: overlay(3, "", ""), how: byChown, owner: chain.Owner{UID: 1000, GID: 2000}},
		"two layers more":          {linux: specs.Linux{Namespaces: own, UIDMappings: maps(1000), GIDMappings: maps(2000)}, chain: overlay(4, "", "")},
		"by a mapping":             {linux: specs.Linux{Namespaces: own, UIDMappings: maps(1000), GIDMappings: maps(2000)}, chain: overlay(2, "0:1000:65536", "0:2000:65536"), how: byIDMap, owner: chain.Owner{UID: 1000, GID: 2000}},
		"by a mapping, split":      {linux: specs.Linux{Namespaces: own, UIDMappings: []specs.LinuxIDMapping{{ContainerID: 10, HostID: 50, Size: 5}, {HostID: 1000, Size: 10}}, GIDMappings: maps(2000)}, chain: overlay(2, "0:1000:10,10:50:5", "0:2000:65536"), how: byIDMap, owner: chain.Owner{UID: 1000, GID: 2000}},
		"by another mapping":       {linux: specs.Linux{Namespaces: own, UIDMappings: maps(1000), GIDMappings: maps(2000)}, chain: overlay(2, "0:0:65536", "0:2000:65536"), refused: true},
		"by a mapping nobody has":  {chain: overlay(2, "0:1000:65536", "0:2000:65536"), refused: true},
		"by nonsense":              {linux: specs.Linux{Namespaces: own, UIDMappings: maps(1000), GIDMappings: maps(2000)}, chain: overlay(2, "x", "0:2000:65536"), refused: true},
		"a mapping that overlaps":  {linux: specs.Linux{Namespaces: own, UIDMappings: append(maps(1000), maps(2000)...), GIDMappings: maps(2000)}, chain: overlay(3, "", ""), refused: true},
		"a mapping without a root": {linux: specs.Linux{Namespaces: own, UIDMappings: []specs.LinuxIDMapping{{ContainerID: 1, HostID: 1000, Size: 10}}, GIDMappings: maps(2000)}, chain: overlay(3, "", ""), refused: true},
	} {
		f := &Finding{Spec: &specs.Spec{Linux: &c.linux}, Image: &inventory.Image{Layers: make([]inventory.Layer, 2)}, chain: c.chain}
		f.remapping()
		how := ""
		if f.Record.Root.Remap != nil {
			how = f.Record.Root.Remap.How
		}
		if how != c.how || f.owner != c.owner || (len(f.Facts.Content) > 0) != c.refused {
			t.Errorf("%s: remapped by %q, root of %+v, reasons %v", name, how, f.owner, f.Facts.Content)
		}
	}
}
