package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
)

// A user namespace's container sees the image's owners as the image says,
// however containerd shifts them: by a chowned layer, by a mapping of the mount,
// in the native snapshotter's copy.
func TestUserNamespaces(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			n := newNode(t, node.Options{Name: "userns", Line: line})
			// containerd 1.7 knows no mapped mounts and makes the layer after all.
			mapped := map[node.Line]string{node.Line17: "chown", node.Line24: "idmap"}[line]
			host := 100000
			for _, rt := range []runtime{stock, byName, byPath} {
				t.Run(rt.name, func(t *testing.T) {
					for _, way := range []struct{ flags, how string }{
						{"", "chown"}, {"--read-only", "chown"}, {"--remap-labels", mapped}, {"--snapshotter native", "chown"},
					} {
						// A mapping of its own, so that nothing is shared with, or collected
						// after, another container.
						host += 65536
						t.Run(strings.TrimLeft(way.flags+" ", "-"), func(t *testing.T) { remapped(subject{n, rt, t}, host, way.flags, way.how) })
					}
					if rt.name != stock.name {
						nothingLeft(subject{n, rt, t})
					}
				})
			}
			logHolds(subject{n, byName, t}, "trusted")
		})
	}
}

// remapped runs two containers; the second stands on what the first made.
func remapped(s subject, host int, flags, how string) {
	id := fmt.Sprint("mapped-", host)
	for _, run := range []struct{ flag, id string }{{"", id}, {"--rm", id + "-again"}} {
		out := mappedRun(s, host, flags, run.flag, run.id)
		if want := "0:0 755\n0:0 1777\n0:0 755"; out != want {
			s.t.Errorf("the container sees %q, want %q", out, want)
		}
		if s.name != stock.name {
			s.sh(`sealift log default/%s --json | grep -q '"remap":{"how":"%s","uid":\[{"container":0,"host":%d,"size":65536}\]'`, run.id, how, host)
		}
	}
	s.sh("ctr container delete %s", id)
}

// mappedRun runs a container and returns what it wrote; one that ctr lost all
// output of is not kept.
func mappedRun(s subject, host int, flags, keep, id string) string {
	s.t.Helper()
	return s.said(`out=$(ctr run %s --runtime %s --uidmap 0:%[3]d:65536 --gidmap 0:%[3]d:65536 %[4]s %[5]s %[6]s stat -c '%%u:%%g %%a' / /tmp /bin/busybox)
[ -n "$out" ] || ctr container delete %[6]s 2>/dev/null || true
echo "$out"`, keep, s.ctr, host, flags, image.TinyName, id)
}
