package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestDecodeOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "o.toml")
	if err := os.WriteFile(file, []byte("SystemdCgroup = true\nRoot = \"/run/r\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	body := []byte("BinaryName = \"crun\"\nNoPivotRoot = true\nIoUid = 7\nShimCgroup = \"/shims\"\nCriuPath = \"\"\n")
	want := &runcoptions.Options{BinaryName: "runc", SystemdCgroup: true, NoNewKeyring: true}
	for _, c := range []struct {
		name  string
		given *anypb.Any
		want  *runcoptions.Options
	}{
		{"nil", nil, &runcoptions.Options{}},
		{"empty", &anypb.Any{}, &runcoptions.Options{}},
		{"runc's own", packed(t, want), want},
		{"a path", packed(t, &runtimeoptions.Options{ConfigPath: file}), &runcoptions.Options{SystemdCgroup: true, Root: "/run/r"}},
		{"a body", packed(t, &runtimeoptions.Options{ConfigBody: body}), &runcoptions.Options{BinaryName: "crun", NoPivotRoot: true, IoUid: 7, ShimCgroup: "/shims"}},
		{"a path before a body", packed(t, &runtimeoptions.Options{ConfigPath: file, ConfigBody: body}), &runcoptions.Options{SystemdCgroup: true, Root: "/run/r"}},
		{"1.7's first kind", &anypb.Any{TypeUrl: v1Create, Value: []byte("\x08\x01\x12\x00\x40\x01\x4a\x02/s\x50\xa0\x8d\x06\x58\x07\x62\x02/w")}, &runcoptions.Options{
			NoPivotRoot: true, NoNewKeyring: true, ShimCgroup: "/s", IoUid: 100000, IoGid: 7, CriuWorkPath: "/w",
		}},
		{"neither", packed(t, &runtimeoptions.Options{TypeUrl: "x"}), &runcoptions.Options{}},
	} {
		got, err := DecodeOptions(c.given)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !proto.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for name, given := range map[string]*anypb.Any{
		"another type": packed(t, &emptypb.Empty{}),
		"no such file": packed(t, &runtimeoptions.Options{ConfigPath: file + "x"}),
		"unknown key":  packed(t, &runtimeoptions.Options{ConfigBody: []byte("SystemdCgroups = true")}),
		"not TOML":     packed(t, &runtimeoptions.Options{ConfigBody: []byte("{")}),
		"wrong kind":   packed(t, &runtimeoptions.Options{ConfigBody: []byte("IoUid = \"x\"")}),
		"cut off":      {TypeUrl: v1Create, Value: []byte{0x4a, 0x05, 'x'}},
		"broken":       {TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}},
	} {
		if _, err := DecodeOptions(given); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
}

func TestDecodeCheckpointOptions(t *testing.T) {
	want := &runcoptions.CheckpointOptions{Exit: true, OpenTcp: true, EmptyNamespaces: []string{"network", "pid"}, WorkPath: "/w", ImagePath: "/i"}
	for name, given := range map[string]*anypb.Any{
		"runc's own":       packed(t, want),
		"1.7's first kind": {TypeUrl: v1Checkpoint, Value: []byte("\x08\x01\x10\x01\x32\x07network\x32\x03pid\x42\x02/w\x4a\x02/i")},
	} {
		got, err := DecodeCheckpointOptions(given)
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := DecodeCheckpointOptions(nil); err != nil || !proto.Equal(got, &runcoptions.CheckpointOptions{}) {
		t.Errorf("nil: %v, %v", got, err)
	}
	if _, err := DecodeCheckpointOptions(packed(t, &emptypb.Empty{})); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("another type: %v", err)
	}
}

func FuzzV1Options(f *testing.F) {
	f.Add([]byte("\x08\x01\x4a\x02/s"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := decodeV1Create(b); err == nil && o == nil {
			t.Fatal("neither options nor an error")
		}
	})
}

func TestSystemdCgroupsPath(t *testing.T) {
	for path, want := range map[string]bool{
		"system.slice:nerdctl:0123":                       true,
		"user.slice:nerdctl:0123":                         true,
		":cri-containerd:0123":                            true,
		"kubepods-burstable-pod1.slice:cri-containerd:01": true,
		"/default/c1":                                     false,
		"":                                                false,
		"a:b:c":                                           false,
		"/a:b:c":                                          false,
		"x.slice:a/b:c":                                   false,
		"x.slice:a:":                                      false,
		"x.slice:a:b:c":                                   false,
		"system.slice:a":                                  false,
	} {
		if got := SystemdCgroupsPath(path); got != want {
			t.Errorf("SystemdCgroupsPath(%q) = %v", path, got)
		}
	}
}

func TestOwnCgroupsPath(t *testing.T) {
	for path, want := range map[string]string{
		"/default/old":            "/default/new",
		"old":                     "new",
		"x.slice:nerdctl:old":     "x.slice:nerdctl:new",
		"/kubepods/besteffort/p1": "/kubepods/besteffort/new",
	} {
		if got := OwnCgroupsPath(path, "new"); got != want {
			t.Errorf("OwnCgroupsPath(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestCgroupTaken(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"unified/default/a", "pids/default/b", "kube.slice/kube-pod1.slice/cri-c.scope"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{
		"/default/a": true, "/default/b": true, "/default/c": false, "": false,
		"kube-pod1.slice:cri:c": true, "kube-pod1.slice:cri:d": false, "kube-pod2.slice:cri:c": false,
	} {
		if got := cgroupTaken(root, path); got != want {
			t.Errorf("cgroupTaken(%q) = %v", path, got)
		}
	}
}

func TestValidID(t *testing.T) {
	for _, id := range []string{"a", "default", "k8s.io", "A-b_c.d9", strings.Repeat("x", 76)} {
		if err := ValidID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "../x", "a/b", "a..b", "-a", "a-", "a\x00b", "a b", "é", strings.Repeat("x", 77)} {
		if err := ValidID(id); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v, want an invalid argument", id, err)
		}
	}
}
