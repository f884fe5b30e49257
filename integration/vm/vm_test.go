package vm_test

import (
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/vm"
)

// lower is the unpacked file of the tiny image.
const lower = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs"

// The quick one: a whole machine with nothing configured.
func TestQuickVM(t *testing.T) {
	m := newMachine(t, vm.NodeOptions{Options: vm.Options{Files: units(t)}})
	if v := m.sh("stat -fc %%T /sys/fs/cgroup"); v != "cgroup2fs" {
		t.Errorf("cgroups are %s", v)
	}
	s := m.status()
	// The device is the kernel's; that the TPM behind it says itself that it is
	// software must not be lost on the way.
	if s.TPM.Device != "/dev/tpmrm0" || s.TPM.Class != "software" || s.Log.State != "trusted" {
		t.Errorf("without configuration: %+v", s)
	}
	m.runs("first")
	m.proven()
	if !strings.Contains(m.sh("sealift log default/first"), image.TinyName) {
		t.Error("the launch is not in the log")
	}
	m.sh("cd %s/etc; cp -p motd /srv/motd; printf A | dd of=motd conv=notrunc status=none; touch -r /srv/motd motd", lower)
	m.refused("second", "etc/motd", "content")
	m.sh("cp -p /srv/motd %s/etc/motd", lower)
	m.runs("third")
	m.proven()
	if out := m.sh("systemd-analyze verify --man=no /etc/systemd/system/sealiftd.service /etc/systemd/system/sealift-swtpm.service 2>&1"); out != "" {
		t.Errorf("the units: %s", out)
	}
}

// units are systemd/ where `make install` puts it.
func units(t *testing.T) []vm.File {
	root, err := made.Root()
	if err != nil {
		t.Fatal(err)
	}
	return []vm.File{{Source: root + "/systemd", Target: "/etc/systemd/system"}}
}
