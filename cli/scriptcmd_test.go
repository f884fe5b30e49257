package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strconv"

	"github.com/containerd/ttrpc"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// exits STATUS COMMAND... runs a command and wants this exit status; its output
// is what stdout and stderr look at.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// layout FILE makes an OCI archive of one image with two layers, the same in
// every run, and beside it the tar of the first layer as FILE.layer.
func layout(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: layout FILE")
	}
	files := map[string][]byte{}
	var order []string
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		sum := sha256.Sum256(data)
		d := ocispec.Descriptor{MediaType: mediaType, Digest: godigest.NewDigestFromBytes(godigest.SHA256, sum[:]), Size: int64(len(data))}
		name := "blobs/sha256/" + d.Digest.Encoded()
		files[name] = data
		order = append(order, name)
		return d
	}
	encoded := func(v any) []byte {
		data, err := json.Marshal(v)
		ts.Check(err)
		return data
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	var m ocispec.Manifest
	for i, content := range []string{"first", "second"} {
		layer := oneFile(ts, "file"+strconv.Itoa(i), []byte(content))
		if i == 0 {
			ts.Check(os.WriteFile(ts.MkAbs(args[0])+".layer", layer, 0o644))
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, godigest.FromBytes(layer))
		m.Layers = append(m.Layers, blob(ocispec.MediaTypeImageLayer, layer))
	}
	m.Config = blob(ocispec.MediaTypeImageConfig, encoded(config))
	manifest := blob(ocispec.MediaTypeImageManifest, encoded(m))
	files["index.json"] = encoded(ocispec.Index{Manifests: []ocispec.Descriptor{manifest}})
	order = append(order, "index.json")
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range order {
		ts.Check(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}))
		_, err := w.Write(files[name])
		ts.Check(err)
	}
	ts.Check(w.Close())
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), buf.Bytes(), 0o644))
}

func oneFile(ts *testscript.TestScript, name string, content []byte) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	ts.Check(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err := w.Write(content)
	ts.Check(err)
	ts.Check(w.Close())
	return buf.Bytes()
}

// agent SOCKET DIR serves the node API at SOCKET with the answers in DIR:
// NAME.json is what request NAME is answered with, line by line for a stream;
// NAME.error is a message it is refused with.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: agent SOCKET DIR")
	}
	l, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	s, err := ttrpc.NewServer()
	ts.Check(err)
	nodev1.RegisterNodeService(s, &canned{dir: ts.MkAbs(args[1])})
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	ts.Defer(func() {
		if err := s.Close(); err != nil {
			ts.Logf("agent: %v", err)
		}
		if err := <-done; err != ttrpc.ErrServerClosed {
			ts.Logf("agent: %v", err)
		}
	})
}

// canned answers from files.
type canned struct{ dir string }

var _ nodev1.NodeService = (*canned)(nil)

// lines returns the answers to a request; an absent file is a request that this
// agent does not know.
func (c *canned) lines(name string) ([][]byte, error) {
	if msg, err := os.ReadFile(c.dir + "/" + name + ".error"); err == nil {
		return nil, status.Error(codes.FailedPrecondition, string(bytes.TrimSpace(msg)))
	}
	data, err := os.ReadFile(c.dir + "/" + name + ".json")
	if err != nil {
		return nil, status.Error(codes.Unimplemented, name)
	}
	return bytes.Split(bytes.TrimSpace(data), []byte("\n")), nil
}

func answer[M any, P interface {
	*M
	proto.Message
}](c *canned, name string) (P, error) {
	lines, err := c.lines(name)
	if err != nil {
		return nil, err
	}
	m := P(new(M))
	return m, protojson.Unmarshal(bytes.Join(lines, []byte("\n")), m)
}

func (c *canned) Hello(context.Context, *nodev1.HelloRequest) (*nodev1.HelloResponse, error) {
	return &nodev1.HelloResponse{Version: 1, Build: "canned"}, nil
}

func (c *canned) Launch(context.Context, *nodev1.LaunchRequest) (*nodev1.LaunchResponse, error) {
	return nil, status.Error(codes.PermissionDenied, "not for a CLI")
}

func (c *canned) Report(context.Context, *nodev1.ReportRequest) (*nodev1.ReportResponse, error) {
	return nil, status.Error(codes.PermissionDenied, "not for a CLI")
}

func (c *canned) Status(context.Context, *nodev1.StatusRequest) (*nodev1.StatusResponse, error) {
	return answer[nodev1.StatusResponse](c, "status")
}

func (c *canned) ImportReference(context.Context, *nodev1.ImportReferenceRequest) (*nodev1.ImportReferenceResponse, error) {
	return answer[nodev1.ImportReferenceResponse](c, "import")
}

func (c *canned) ExplainPolicy(context.Context, *nodev1.ExplainPolicyRequest) (*nodev1.ExplainPolicyResponse, error) {
	return answer[nodev1.ExplainPolicyResponse](c, "explain")
}

func (c *canned) Acknowledge(context.Context, *nodev1.AcknowledgeRequest) (*nodev1.AcknowledgeResponse, error) {
	return answer[nodev1.AcknowledgeResponse](c, "acknowledge")
}

func (c *canned) ReadLog(_ context.Context, req *nodev1.ReadLogRequest, s nodev1.Node_ReadLogServer) error {
	lines, err := c.lines("log")
	if err != nil {
		return err
	}
	for i, l := range lines {
		if err := s.Send(&nodev1.LogLine{Seq: uint64(i + 1), Line: l}); err != nil {
			return err
		}
	}
	return nil
}

func (c *canned) Measure(_ context.Context, _ *nodev1.MeasureRequest, s nodev1.Node_MeasureServer) error {
	lines, err := c.lines("measure")
	if err != nil {
		return err
	}
	for _, l := range lines {
		var u nodev1.MeasureUpdate
		if err := protojson.Unmarshal(l, &u); err != nil {
			return err
		}
		if err := s.Send(&u); err != nil {
			return err
		}
	}
	return nil
}

func (c *canned) Attest(_ context.Context, _ *nodev1.AttestRequest, s nodev1.Node_AttestServer) error {
	lines, err := c.lines("attest")
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := s.Send(&nodev1.AttestPart{Data: l}); err != nil {
			return err
		}
	}
	return nil
}

func (c *canned) WatchPeers(_ context.Context, _ *nodev1.WatchPeersRequest, s nodev1.Node_WatchPeersServer) error {
	lines, err := c.lines("peers")
	if err != nil {
		return err
	}
	for _, l := range lines {
		m := &nodev1.PeerState{}
		if err := protojson.Unmarshal(l, m); err != nil {
			return err
		}
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (c *canned) SetPeer(context.Context, *nodev1.Peer) (*nodev1.PeerResponse, error) {
	return answer[nodev1.PeerResponse](c, "set-peer")
}

func (c *canned) RemovePeer(context.Context, *nodev1.Peer) (*nodev1.PeerResponse, error) {
	return answer[nodev1.PeerResponse](c, "remove-peer")
}

func (c *canned) EnrollBegin(context.Context, *nodev1.EnrollBeginRequest) (*nodev1.EnrollBeginResponse, error) {
	return answer[nodev1.EnrollBeginResponse](c, "enroll-begin")
}

func (c *canned) EnrollAnswer(context.Context, *nodev1.EnrollAnswerRequest) (*nodev1.EnrollAnswerResponse, error) {
	return answer[nodev1.EnrollAnswerResponse](c, "enroll-answer")
}

func (c *canned) EnrollFinish(context.Context, *nodev1.EnrollFinishRequest) (*nodev1.EnrollFinishResponse, error) {
	return answer[nodev1.EnrollFinishResponse](c, "enroll-finish")
}
