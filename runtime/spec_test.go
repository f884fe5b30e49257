package runtime

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const plain = `{
 "ociVersion":"1.2.0","futureField":{"x":[1,2,{"y":null}]},
 "process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},
 "root": { "path" : "rootfs" , "readonly":true},
 "annotations":{"a":"1","A":"2"},
 "linux":{"cgroupsPath":"/default/old","namespaces":[{"type":"mount"}]}
}`

func TestFinalSpecEditsOnlyWhatItMust(t *testing.T) {
	s, err := FinalSpec([]byte(plain), SpecOptions{Bundle: "/run/b/c1", MountedRootfs: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(plain, `"rootfs"`, `"/run/b/c1/rootfs"`, 1); string(s.Bytes) != want {
		t.Errorf("final specification:\n%s", s.Bytes)
	}
	if s.OCI.Root.Path != "/run/b/c1/rootfs" || !s.OCI.Root.Readonly || s.OCI.Annotations["A"] != "2" {
		t.Errorf("decoded as %+v", s.OCI)
	}
	again, err := FinalSpec(s.Bytes, SpecOptions{Bundle: "/elsewhere"})
	if err != nil || string(again.Bytes) != string(s.Bytes) || len(again.Edits) != 0 {
		t.Errorf("an absolute root path was edited: %v, %v", again, err)
	}
	moved, err := FinalSpec([]byte(plain), SpecOptions{Bundle: "/b", CgroupsPath: "/default/new"})
	if err != nil || moved.OCI.Linux.CgroupsPath != "/default/new" || moved.OCI.Root.Path != "/b/rootfs" {
		t.Errorf("moved cgroup: %+v, %v", moved, err)
	}
}

func TestFinalSpecRefuses(t *testing.T) {
	for name, config := range map[string]string{
		"empty":              ``,
		"an array":           `[]`,
		"text after":         plain + `{}`,
		"no root":            `{"ociVersion":"1"}`,
		"a key twice":        `{"root":{"path":"a"},"root":{"path":"b"}}`,
		"a key twice inside": `{"root":{"path":"a","path":"b"}}`,
		"case variants":      `{"root":{"path":"a"},"Root":{"path":"b"}}`,
		"folded variants":    `{"root":{"path":"a"},"proce\u017fs":{},"process":{}}`,
		"twice in an array":  `{"root":{"path":"a"},"mounts":[{"source":"/a","Source":"/run/sealift"}]}`,
		"annotation twice":   `{"root":{"path":"a"},"annotations":{"a":"1","a":"2"}}`,
		"a path with a NUL":  `{"root":{"path":"a"},"root\u0000path":"/x"}`,
		"wrong type":         `{"root":{"path":5}}`,
		"too deep":           strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat(`}`, 100),
		"cut off":            plain[:len(plain)-4],
		"rootfs elsewhere":   `{"root":{"path":"other"}}`,
		"absolute elsewhere": `{"root":{"path":"/other"}}`,
		"traversal":          `{"root":{"path":"../c2/rootfs"}}`,
	} {
		if s, err := FinalSpec([]byte(config), SpecOptions{Bundle: "/run/b/c1", MountedRootfs: true}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// A field that a case variant names is the field itself to Go's decoder, and so
// must be to the editor.
func TestFinalSpecFollowsDecoder(t *testing.T) {
	s, err := FinalSpec([]byte(`{"ROOT":{"Path":"rootfs"}}`), SpecOptions{Bundle: "/b"})
	if err != nil || string(s.Bytes) != `{"ROOT":{"Path":"/b/rootfs"}}` {
		t.Errorf("%v, %v", s, err)
	}
}

func TestFinalSpecWithholdsTPM(t *testing.T) {
	const privileged = `{"root":{"path":"rootfs"},"linux":{
	 "devices":[{"path":"/dev/null","type":"c","major":1,"minor":3},{"path":"/dev/tpm0","type":"c","major":10,"minor":224}],
	 "resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"access":"rwm"}]}}}`
	tpm := []Device{{"c", 10, 224}, {"c", 253, 65536}}
	s, err := FinalSpec([]byte(privileged), SpecOptions{Bundle: "/b", Withhold: tpm})
	if err != nil {
		t.Fatal(err)
	}
	if d := s.OCI.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/null" {
		t.Errorf("devices %v", d)
	}
	rules := s.OCI.Linux.Resources.Devices
	if len(rules) != 4 || rules[2].Allow || *rules[2].Minor != 224 || *rules[3].Major != 253 || rules[3].Access != "rwm" {
		t.Errorf("rules %+v", rules)
	}
	p := Protected{Devices: tpm}
	for _, v := range p.Check(s.OCI, "/b") {
		if v.Code == "device-tpm" {
			t.Errorf("still in reach: %v", v)
		}
	}
	// Asked for by name, without being allowed everything: that is for Check.
	named := strings.Replace(privileged, `{"allow":true,"access":"rwm"}`, `{"allow":true,"type":"c","major":10,"minor":224,"access":"rw"}`, 1)
	kept, err := FinalSpec([]byte(named), SpecOptions{Bundle: "/b", Withhold: tpm})
	if err != nil || len(kept.OCI.Linux.Devices) != 2 {
		t.Errorf("%v, %v", kept, err)
	}
}

func FuzzFinalSpec(f *testing.F) {
	f.Add([]byte(plain))
	f.Add([]byte(`{"root":{"path":"rootfs"},"linux":{"cgroupsPath":"a"}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		s, err := FinalSpec(config, SpecOptions{Bundle: "/run/b/c1", MountedRootfs: true, CgroupsPath: "/x"})
		if err != nil {
			return
		}
		if s.OCI.Root.Path != "/run/b/c1/rootfs" {
			t.Fatalf("root.path %q from %q", s.OCI.Root.Path, config)
		}
		if !json.Valid(s.Bytes) {
			t.Fatalf("not JSON: %q", s.Bytes)
		}
		if l := s.OCI.Linux; l != nil && l.CgroupsPath != "" && l.CgroupsPath != "/x" {
			t.Fatalf("cgroupsPath %q from %q", l.CgroupsPath, config)
		}
	})
}
