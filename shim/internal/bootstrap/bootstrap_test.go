package bootstrap

import (
	"encoding/hex"
	"encoding/json"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The bytes were recorded by a shim that wrote down its stdin. containerd 1.6 to
// 2.2 write the same: the options alone, or nothing.
const (
	legacyPath  = "0a1972756e74696d656f7074696f6e732e76312e4f7074696f6e73120d120b2f746d702f6f2e746f6d6c"
	legacyRunc  = "0a1a636f6e7461696e6572642e72756e632e76312e4f7074696f6e731208320472756e634801"
	params24Nil = "0a0b7265632d6332342d6e696c120764656661756c74220676322e342e322a152f72756e2f6332342f632e736f636b2e7474727063320f2f72756e2f6332342f632e736f636b3a112f63747232342f636f6e7461696e6572644a112f72756e2f636f6e7461696e6572642f73"
	params24Pth = "0a0c7265632d6332342d70617468120764656661756c74220676322e342e322a152f72756e2f6332342f632e736f636b2e7474727063320f2f72756e2f6332342f632e736f636b3a112f63747232342f636f6e7461696e657264422c0a2a0a1972756e74696d656f7074696f6e732e76312e4f7074696f6e73120d120b2f746d702f6f2e746f6d6c4a112f72756e2f636f6e7461696e6572642f73"
	params24Rnc = "0a0c7265632d6332342d72756e63120764656661756c74220676322e342e322a152f72756e2f6332342f632e736f636b2e7474727063320f2f72756e2f6332342f632e736f636b3a112f63747232342f636f6e7461696e65726442280a260a1a636f6e7461696e6572642e72756e632e76312e4f7074696f6e731208320472756e6348014a112f72756e2f636f6e7461696e6572642f73"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, stdin, id string
		dialect         Dialect
		options         proto.Message
	}{
		{"1.7 without options", "", "rec-ctr-nil", Legacy, nil},
		{"1.7 with a path", legacyPath, "rec-ctr-path", Legacy, &runtimeoptions.Options{ConfigPath: "/tmp/o.toml"}},
		{"1.7 with runc options", legacyRunc, "rec-ctr-runc", Legacy, &runcoptions.Options{BinaryName: "runc", SystemdCgroup: true}},
		{"2.4 without options", params24Nil, "rec-c24-nil", Protobuf, nil},
		{"2.4 with a path", params24Pth, "rec-c24-path", Protobuf, &runtimeoptions.Options{ConfigPath: "/tmp/o.toml"}},
		{"2.4 with runc options", params24Rnc, "rec-c24-runc", Protobuf, &runcoptions.Options{BinaryName: "runc", SystemdCgroup: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Decode(unhex(t, c.stdin), c.id, "default")
			if err != nil {
				t.Fatal(err)
			}
			if r.Dialect != c.dialect {
				t.Errorf("dialect %d, want %d", r.Dialect, c.dialect)
			}
			if c.options == nil {
				if r.Options != nil {
					t.Errorf("options %v, want none", r.Options)
				}
			} else {
				got := c.options.ProtoReflect().New().Interface()
				if err := r.Options.UnmarshalTo(got); err != nil {
					t.Fatal(err)
				}
				if !proto.Equal(got, c.options) {
					t.Errorf("options %v, want %v", got, c.options)
				}
			}
			if c.dialect == Protobuf && (r.SocketDir != "/run/containerd/s" || r.GRPCAddress != "/run/c24/c.sock" || r.Debug) {
				t.Errorf("parameters %+v", r)
			}
		})
	}
}

// Options whose type and content happen to be the id and the namespace are the
// only ones that read as parameters; nothing else may.
func TestDecodeTellsByIdentity(t *testing.T) {
	stdin := unhex(t, params24Nil)
	for _, c := range []struct{ id, namespace string }{{"other", "default"}, {"rec-c24-nil", "k8s.io"}, {"", ""}} {
		r, err := Decode(stdin, c.id, c.namespace)
		if err == nil && r.Dialect == Protobuf {
			t.Errorf("parameters for rec-c24-nil in default taken for %q in %q", c.id, c.namespace)
		}
	}
	// An Any decodes as BootstrapParams: its type is the id, its value the namespace.
	any, err := proto.Marshal(&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte("default")})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Decode(any, "c1", "default")
	if err != nil || r.Dialect != Legacy {
		t.Errorf("options taken for %v, %v", r.Dialect, err)
	}
	if _, err := Decode([]byte("\xff\xff"), "c1", "default"); err == nil {
		t.Error("nonsense on stdin was accepted")
	}
}

func TestDebug(t *testing.T) {
	for level, want := range map[bootapi.LogLevel]bool{
		bootapi.LogLevel_LOG_LEVEL_INFO: false, bootapi.LogLevel_LOG_LEVEL_DEBUG: true, bootapi.LogLevel_LOG_LEVEL_TRACE: true,
	} {
		b, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: "c", Namespace: "n", LogLevel: level})
		if err != nil {
			t.Fatal(err)
		}
		r, err := Decode(b, "c", "n")
		if err != nil || r.Debug != want {
			t.Errorf("level %v: debug %v, %v", level, r.Debug, err)
		}
	}
}

func TestEncode(t *testing.T) {
	legacy, err := Encode(Legacy, "unix:///run/s/x")
	if err != nil {
		t.Fatal(err)
	}
	// containerd 1.7 refuses versions above 2, and 2.0 to 2.2 above 3.
	var m map[string]any
	if err := json.Unmarshal(legacy, &m); err != nil || m["version"] != 2.0 || m["address"] != "unix:///run/s/x" || m["protocol"] != "ttrpc" {
		t.Errorf("legacy answer %s, %v", legacy, err)
	}
	b, err := Encode(Protobuf, "unix:///run/s/x")
	if err != nil {
		t.Fatal(err)
	}
	var r bootapi.BootstrapResult
	if err := proto.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if r.GetVersion() != 3 || r.GetAddress() != "unix:///run/s/x" || r.GetProtocol() != "ttrpc" {
		t.Errorf("answer %v", &r)
	}
	if found, err := r.FindExtension(&types.MountCapabilities{}); err != nil || !found {
		t.Errorf("mount capabilities: found %v, %v", found, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{legacyPath, legacyRunc, params24Nil, params24Pth, params24Rnc} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b, "id", "ns")
		if err != nil || r.Dialect == Legacy {
			return
		}
		var p bootapi.BootstrapParams
		if err := proto.Unmarshal(b, &p); err != nil || p.GetInstanceID() != "id" || p.GetNamespace() != "ns" {
			t.Fatalf("taken for parameters: %v, %v", &p, err)
		}
	})
}
