package hostile_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/integration/node"
	"github.com/sealift/sealift/integration/tamper"
)

// honest prepares a container whose launch is committed, and returns the request.
func honest(t *testing.T, s *tamper.Stage, ns, id string) *nodev1.LaunchRequest {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), ns)
	img, err := s.Import(ctx, ns, overlayfs, s.Image)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Create(ctx, ns, id, overlayfs, img)
	if err != nil {
		t.Fatal(err)
	}
	req, err := s.Request(ctx, ns, c)
	if err != nil {
		t.Fatal(err)
	}
	passes(t, s, req)
	return req
}

// passes wants an honest launch let through, whatever was sent before, and soon.
// The machine may be busy otherwise for a moment: of five the fastest counts.
func passes(t *testing.T, s *tamper.Stage, req *nodev1.LaunchRequest) {
	t.Helper()
	const soon = 2 * time.Second
	fastest := time.Duration(math.MaxInt64)
	for i := 0; i < 5 && fastest > soon; i++ {
		start := time.Now()
		resp, err := s.Launch(req)
		fastest = min(fastest, time.Since(start))
		if err != nil || resp.GetCommitted() == nil || len(resp.GetCommitted().GetWouldRefuse()) > 0 {
			t.Fatalf("an honest launch: %v %v", resp, err)
		}
	}
	if fastest > soon {
		t.Errorf("an honest launch took %s", fastest)
	}
}

func withSpec(t *testing.T, req *nodev1.LaunchRequest, edit func(*specs.Spec)) *nodev1.LaunchRequest {
	t.Helper()
	var spec specs.Spec
	if err := json.Unmarshal(req.GetSpec(), &spec); err != nil {
		t.Fatal(err)
	}
	edit(&spec)
	q := proto.CloneOf(req)
	var err error
	if q.Spec, err = json.Marshal(&spec); err != nil {
		t.Fatal(err)
	}
	return q
}

func bind(source string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: source, Destination: "/mnt", Options: []string{"rbind"}})
	}
}

func mounted(kind string, options ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Type: kind, Source: kind, Destination: "/mnt", Options: options})
	}
}

// What a spec must not get, by whatever name it asks for it. Policy in force is
// audit: these are refused in every mode.
var protected = map[string]func(*specs.Spec){
	"the socket":                     bind("/run/sealift/node.sock"),
	"its directory":                  bind("/run/sealift"),
	"the directory above":            bind("/run"),
	"everything":                     bind("/"),
	"the log":                        bind("/var/lib/sealift/log"),
	"the state":                      bind("/var/lib/sealift"),
	"above the state":                bind("/var/lib"),
	"policy":                         bind("/etc/sealift/policy.d"),
	"through a link":                 bind("/srv/link"),
	"through a link above":           bind("/srv/links/run/sealift"),
	"unclean":                        bind("/run/./sealift//../sealift/"),
	"relative":                       bind("../../../../sealift"),
	"the first process's root":       bind("/proc/1/root/run/sealift"),
	"the agent's own root":           bind("/proc/self/root/run/sealift"),
	"the first process's directory":  bind("/proc/1/cwd/run/sealift"),
	"another mount of the same":      bind("/srv/alias/run/sealift"),
	"below another mount":            bind("/srv/alias/run/sealift/swtpm.sock"),
	"another mount of what is above": bind("/srv/alias/run"),
	"as an overlay's lower":          mounted("overlay", "lowerdir=/run/sealift:/srv"),
	"as an overlay's upper":          mounted("overlay", "lowerdir=/srv", "upperdir=/var/lib/sealift", "workdir=/srv"),
	"as an overlay's last lower":     mounted("overlay", "lowerdir+=/run/sealift"),
	"without bind's type":            mounted("none", "bind"),
	"a devtmpfs":                     mounted("devtmpfs"),
	"the root":                       func(s *specs.Spec) { s.Root.Path = "/var/lib/sealift" },
	"the TPM by name": func(s *specs.Spec) {
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/tpmrm0", Type: "c", Major: 10, Minor: 224})
	},
	"the host's mounts": func(s *specs.Spec) {
		for i, n := range s.Linux.Namespaces {
			if n.Type == specs.MountNamespace {
				s.Linux.Namespaces[i].Path = "/proc/1/ns/mnt"
			}
		}
	},
	"CRIU's configuration": func(s *specs.Spec) { s.Annotations = map[string]string{"org.criu.config": "/tmp/x"} },
}

const auditAll = `apiVersion: sealift.dev/v1
kind: WorkloadPolicy
metadata: {name: audited}
spec:
  match: {namespaces: [hostile]}
  content: audit
`

// TestProtected asks for Sealift's own things in the spec.
func TestProtected(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "protected", Policies: map[string]string{"audit.yaml": auditAll}})
	if _, err := s.Shell(t.Context(), `ln -s /run/sealift /srv/link; mkdir -p /srv/links /srv/alias; ln -s /run /srv/links/run; mount --rbind / /srv/alias`); err != nil {
		t.Fatal(err)
	}
	req := honest(t, s, "hostile", "c")
	for name, edit := range protected {
		t.Run(name, func(t *testing.T) {
			if name == "without bind's type" {
				edit = func(s *specs.Spec) {
					s.Mounts = append(s.Mounts, specs.Mount{Type: "none", Source: "/run/sealift", Destination: "/mnt", Options: []string{"bind"}})
				}
			}
			refusedAndLogged(t, s, withSpec(t, req, edit))
		})
	}
	passes(t, s, withSpec(t, req, bind("/srv/nothing-of-ours")))
	passes(t, s, req)
}

// refusedAndLogged wants a refusal that is in the log.
func refusedAndLogged(t *testing.T, s *tamper.Stage, req *nodev1.LaunchRequest) {
	t.Helper()
	resp, err := s.Launch(req)
	if err != nil {
		t.Errorf("no answer: %.300v", err)
		return
	}
	r := resp.GetRefused()
	if r == nil {
		t.Errorf("not refused: %v", resp)
		return
	}
	if r.GetSeq() == 0 || len(r.GetReasons()) == 0 {
		t.Errorf("refused as record %d for %.500v", r.GetSeq(), r.GetReasons())
	}
}

// TestRequests says from a shim's place what no shim says.
func TestRequests(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "requests", Policies: map[string]string{"audit.yaml": auditAll}})
	req := honest(t, s, "hostile", "c")
	huge := strings.Repeat("A", 1<<20)
	change := func(f func(*nodev1.LaunchRequest)) *nodev1.LaunchRequest {
		q := proto.CloneOf(req)
		f(q)
		return q
	}
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint("key", i)] = "value"
		}
		return m
	}
	for name, q := range map[string]*nodev1.LaunchRequest{
		"traversal in the id":          change(func(q *nodev1.LaunchRequest) { q.Id = "../../../etc/cron.d/x" }),
		"a slash in the id":            change(func(q *nodev1.LaunchRequest) { q.Id = "a/b" }),
		"two dots":                     change(func(q *nodev1.LaunchRequest) { q.Id = ".." }),
		"no id":                        change(func(q *nodev1.LaunchRequest) { q.Id = "" }),
		"a NUL in the id":              change(func(q *nodev1.LaunchRequest) { q.Id = "c\x00d" }),
		"a huge id":                    change(func(q *nodev1.LaunchRequest) { q.Id = huge }),
		"traversal in the namespace":   change(func(q *nodev1.LaunchRequest) { q.Namespace = "../hostile" }),
		"no namespace":                 change(func(q *nodev1.LaunchRequest) { q.Namespace = "" }),
		"a huge namespace":             change(func(q *nodev1.LaunchRequest) { q.Namespace = huge }),
		"another containerd":           change(func(q *nodev1.LaunchRequest) { q.ContainerdAddress = "/srv/evil.sock" }),
		"a huge address":               change(func(q *nodev1.LaunchRequest) { q.ContainerdAddress = huge }),
		"no spec":                      change(func(q *nodev1.LaunchRequest) { q.Spec = nil }),
		"a spec that is no JSON":       change(func(q *nodev1.LaunchRequest) { q.Spec = []byte("{") }),
		"a spec of nothing":            change(func(q *nodev1.LaunchRequest) { q.Spec = []byte("{}") }),
		"two specs":                    change(func(q *nodev1.LaunchRequest) { q.Spec = append(q.Spec, q.Spec...) }),
		"a spec nested deep":           change(func(q *nodev1.LaunchRequest) { q.Spec = bytes.Repeat([]byte("["), 1<<20) }),
		"a huge spec":                  change(func(q *nodev1.LaunchRequest) { q.Spec = bytes.Repeat([]byte(" "), 7<<19) }),
		"too many annotations":         withSpec(t, req, func(s *specs.Spec) { s.Annotations = many(5000) }),
		"a huge option that is a rule": withSpec(t, req, bind("/run/sealift/"+strings.Repeat("a/", 1<<10))),
	} {
		t.Run(name, func(t *testing.T) { refusedAndLogged(t, s, q) })
	}
	// What policy lets through in audit mode is let through, huge or not; it must
	// be recorded and hurt nobody.
	for name, q := range map[string]*nodev1.LaunchRequest{
		"a huge mount option": change(func(q *nodev1.LaunchRequest) { q.Rootfs[0].Options = append(q.Rootfs[0].Options, huge) }),
		"many known mount options": change(func(q *nodev1.LaunchRequest) {
			q.Rootfs[0].Options = append(q.Rootfs[0].Options, repeat("noatime", 100_000)...)
		}),
		"a huge lower":                change(func(q *nodev1.LaunchRequest) { q.Rootfs[0].Options[0] = "lowerdir=/" + huge }),
		"a huge annotation":           withSpec(t, req, func(s *specs.Spec) { s.Annotations = map[string]string{"a": huge} }),
		"a thousand binds":            withSpec(t, req, func(s *specs.Spec) { s.Mounts = append(s.Mounts, repeat(bindOf("/etc/hostname"), 1000)...) }),
		"too many mounts of the root": change(func(q *nodev1.LaunchRequest) { q.Rootfs = manyMounts(5000) }),
		"a thousand binds of long names": withSpec(t, req, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, repeat(bindOf("/srv/"+strings.Repeat("n/", 1000)), 1000)...)
		}),
		"a huge runtime": change(func(q *nodev1.LaunchRequest) { q.RuntimeBinary = huge }),
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := s.Launch(q)
			if err != nil {
				t.Fatalf("no answer: %.300v", err)
			}
			if r := resp.GetRefused(); r != nil && r.GetSeq() == 0 {
				t.Errorf("refused and not logged: %.500v", r.GetReasons())
			}
		})
	}
	t.Run("reports of what was never launched", func(t *testing.T) {
		for kind := range nodev1.ReportKind_name {
			if err := s.Probe().Call("Report", &nodev1.ReportRequest{Namespace: "hostile", Id: "../c", Kind: nodev1.ReportKind(kind)}, &nodev1.ReportResponse{}); err == nil {
				t.Errorf("report %d is taken", kind)
			}
		}
		turnedAway(t, s, "never launched")
	})
	t.Run("what only the CLI may", func(t *testing.T) {
		for _, m := range []string{"Status", "Acknowledge"} {
			if err := s.Probe().Call(m, &nodev1.StatusRequest{}, &nodev1.StatusResponse{}); err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
				t.Errorf("%s: %v", m, err)
			}
		}
	})
	t.Run("shims of other versions", func(t *testing.T) {
		for _, v := range []uint32{0, 99} {
			resp := &nodev1.HelloResponse{}
			if err := s.Probe().Call("Hello", &nodev1.HelloRequest{Version: v, Client: "shim", Build: huge}, resp); err != nil || resp.GetVersion() == 0 {
				t.Errorf("version %d: %v %v", v, resp, err)
			}
		}
		// Fields of a later version are passed over.
		q := proto.CloneOf(req)
		q.ProtoReflect().SetUnknown([]byte{0xfa, 0x3e, 0x03, 'n', 'e', 'w'})
		passes(t, s, q)
	})
	passes(t, s, req)
}

func repeat[T any](v T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func bindOf(source string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: "/etc/motd", Options: []string{"bind"}}
}

func manyMounts(n int) []*nodev1.Mount {
	return repeat(&nodev1.Mount{Type: "bind", Source: "/srv"}, n)
}

// TestFuzzedMessages writes what is not, or not quite, ttrpc: random bytes, and
// an honest request with bytes changed, lengths that lie, and an end too early.
func TestFuzzedMessages(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "fuzzed"})
	req := honest(t, s, "default", "c")
	good := frame(t, req)
	r := rand.New(rand.NewPCG(1, 2))
	count := 300
	if os.Getenv("SEALIFT_TEST") == "long" {
		count = 100_000
	}
	for range count {
		b := bytes.Clone(good)
		switch r.IntN(4) {
		case 0:
			b = make([]byte, r.IntN(200))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
		case 1:
			binary.BigEndian.PutUint32(b, r.Uint32())
		case 2:
			b = b[:r.IntN(len(b))]
		}
		for range r.IntN(8) {
			if len(b) > 0 {
				b[r.IntN(len(b))] = byte(r.Uint32())
			}
		}
		// Whatever it answers, it answers or hangs up, and goes on.
		_ = s.Probe().Raw(b) //nolint:errcheck // the next honest launch is the test
	}
	passes(t, s, req)
	select {
	case <-s.Agent.Done():
		t.Error("the agent ended")
	default:
	}
}

// frame is a request as ttrpc sends it: length, stream, type and flags, and a
// message with the service, the method and the payload (ttrpc's PROTOCOL.md).
func frame(t *testing.T, req *nodev1.LaunchRequest) []byte {
	t.Helper()
	payload, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	var m []byte
	field := func(n byte, b []byte) {
		m = append(m, n<<3|2)
		m = binary.AppendUvarint(m, uint64(len(b)))
		m = append(m, b...)
	}
	field(1, []byte("sealift.node.v1.Node"))
	field(2, []byte("Launch"))
	field(3, payload)
	out := binary.BigEndian.AppendUint32(nil, uint32(len(m)))
	out = binary.BigEndian.AppendUint32(out, 1)
	return append(append(out, 1, 0), m...)
}

// TestFlood has one tenant refused as fast as it can ask, with as much to say of
// each refusal as it can, until its share of the log is full. Another's start
// goes on.
func TestFlood(t *testing.T) {
	s := tamper.TestStage(t, node.Options{Name: "flood", Config: "[log]\nquota = 65536\nreserve = 262144\nmax_bytes = 9437184\n"})
	good := honest(t, s, "quiet", "c")
	bad := withSpec(t, honest(t, s, "loud", "c"), func(s *specs.Spec) {
		for range 30 {
			bind("/run/sealift/" + strings.Repeat("x", 200))(s)
		}
	})
	unlogged := 0
	for i := range 400 {
		resp, err := s.Launch(bad)
		if err != nil || resp.GetRefused() == nil {
			t.Fatalf("%v %v", resp, err)
		}
		if resp.GetRefused().GetSeq() == 0 {
			unlogged++
		}
		if i%100 == 99 {
			passes(t, s, good)
		}
	}
	if unlogged == 0 {
		t.Error("the flood never met its quota: it proves nothing")
	}
	t.Logf("%d of 400 refusals were over the quota and only counted", unlogged)
}
