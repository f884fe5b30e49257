package vm_test

import (
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/vm"
)

// erofs makes containerd unpack layers to EROFS images, and what is added
// protect them.
const erofs = `
[plugins."io.containerd.service.v1.diff-service"]
default = ["erofs", "walking"]
[plugins."io.containerd.snapshotter.v1.erofs"]
`

// containerd's EROFS snapshotter, as it comes and with fs-verity: the class that
// the record names, what it notices, and the same start after it.
func TestVMImageFiles(t *testing.T) {
	long(t)
	for _, c := range []struct{ class, config string }{
		{"blob", erofs},
		{"verity", erofs + "enable_fsverity = true\n"},
	} {
		t.Run(c.class, func(t *testing.T) {
			m := newMachine(t, vm.NodeOptions{
				Options:    vm.Options{Modules: []string{"erofs", "overlay", "loop"}},
				Containerd: c.config, ImportArgs: []string{"--local", "--snapshotter", "erofs"},
			})
			run := func(id string) (string, bool) { return m.start(id, "--snapshotter erofs") }
			for _, id := range []string{"first", "second"} {
				if out, ok := run(id); !ok || out != motd {
					t.Fatalf("container %s: %q", id, out)
				}
				if log := m.sh("sealift log --json default/%s", id); !strings.Contains(log, `"`+c.class+`"`) {
					t.Errorf("container %s: its record does not name the class %s:\n%s", id, c.class, log)
				}
			}
			m.proven()
			// Somebody puts another image file in the layer's place.
			m.sh(`cd /var/lib/containerd/io.containerd.snapshotter.v1.erofs/snapshots/*/; chattr -i layer.erofs || true
cp layer.erofs /srv/other; at=$(grep -abo 'an ordinary container' /srv/other | head -n 1 | cut -d: -f1)
printf A | dd of=/srv/other bs=1 seek=$at conv=notrunc status=none; mv layer.erofs /srv/original; mv /srv/other layer.erofs`)
			if out, ok := run("third"); ok || !strings.Contains(out, "etc/motd") {
				t.Errorf("another image file in its place: %q", out)
			}
			if out := m.sh("ctr run --rm --snapshotter erofs --runtime %s %s stock cat /etc/motd", node.Stock, image.TinyName); out != "An ordinary container" {
				t.Errorf("the stock runtime says %q: the attack did not work", out)
			}
			m.sh("mv /srv/original /var/lib/containerd/io.containerd.snapshotter.v1.erofs/snapshots/*/layer.erofs")
			if out, ok := run("fourth"); !ok || out != motd {
				t.Errorf("with the right image file again: %q", out)
			}
			m.proven()
		})
	}
}
