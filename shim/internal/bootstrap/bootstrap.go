// Package bootstrap speaks both dialects of a shim's start action. containerd
// 2.2 and earlier write the runtime options (or nothing) to stdin and read JSON;
// 2.3 and later write BootstrapParams and read a BootstrapResult in protobuf.
package bootstrap

import (
	"encoding/json"
	"fmt"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Dialect is the language of one start action.
type Dialect int

const (
	// Legacy is JSON with version 2, the highest that containerd 1.7 accepts.
	Legacy Dialect = iota
	// Protobuf is BootstrapParams and BootstrapResult, version 3.
	Protobuf
)

// Version of the task API named in the answer. Every Sealift shim serves both,
// so the same holds when the answer is the address of a running one.
func (d Dialect) Version() int32 {
	if d == Protobuf {
		return 3
	}
	return 2
}

// Request is what containerd asked for on stdin.
type Request struct {
	Dialect Dialect
	// Options are the runtime options, nil when there are none.
	Options *anypb.Any
	// SocketDir is where the socket is wanted; empty for the default.
	SocketDir string
	// GRPCAddress is containerd's address; empty in the legacy dialect, where
	// it is a flag.
	GRPCAddress string
	// Debug asks for debug logging.
	Debug bool
}

// Decode tells the dialects apart. Legacy options can decode as
// BootstrapParams, so stdin is only taken for them when it names the very
// container and namespace of the flags.
func Decode(stdin []byte, id, namespace string) (Request, error) {
	if len(stdin) == 0 {
		return Request{}, nil
	}
	var params bootapi.BootstrapParams
	if err := proto.Unmarshal(stdin, &params); err == nil && id != "" &&
		params.GetInstanceID() == id && params.GetNamespace() == namespace {
		r := Request{
			Dialect:     Protobuf,
			SocketDir:   params.GetSocketDir(),
			GRPCAddress: params.GetContainerdGrpcAddress(),
			Debug:       params.GetLogLevel() <= bootapi.LogLevel_LOG_LEVEL_DEBUG,
		}
		for _, e := range params.GetExtensions() {
			if v := e.GetValue(); v.MessageIs(&runcoptions.Options{}) || v.MessageIs(&runtimeoptions.Options{}) {
				r.Options = v
				break
			}
		}
		return r, nil
	}
	var options anypb.Any
	if err := proto.Unmarshal(stdin, &options); err != nil {
		return Request{}, fmt.Errorf("start action's stdin is neither bootstrap parameters nor runtime options: %w", err)
	}
	if options.GetTypeUrl() == "" {
		return Request{}, nil
	}
	return Request{Options: &options}, nil
}

// Encode writes the answer for a shim listening at address.
func Encode(d Dialect, address string) ([]byte, error) {
	if d == Legacy {
		b, err := json.Marshal(struct {
			Version  int32  `json:"version"`
			Address  string `json:"address"`
			Protocol string `json:"protocol"`
		}{d.Version(), address, "ttrpc"})
		if err != nil {
			return nil, fmt.Errorf("start action's answer: %w", err)
		}
		return b, nil
	}
	// An empty MountCapabilities says that the shim mounts nothing but ordinary
	// mounts. Without it containerd runs the shim with -info to ask.
	capabilities, err := anypb.New(&types.MountCapabilities{})
	if err != nil {
		return nil, fmt.Errorf("mount capabilities: %w", err)
	}
	b, err := proto.Marshal(&bootapi.BootstrapResult{
		Version:    d.Version(),
		Address:    address,
		Protocol:   "ttrpc",
		Extensions: []*bootapi.Extension{{Value: capabilities}},
	})
	if err != nil {
		return nil, fmt.Errorf("start action's answer: %w", err)
	}
	return b, nil
}
