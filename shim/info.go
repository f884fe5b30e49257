package shim

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sealift/sealift/internal/version"
	"github.com/sealift/sealift/runtime"
)

// info describes the runtime to containerd: which build this is, the options it
// understood, and what runc can do (containerd asks before it maps ids of
// mounts). It runs in a process of its own that reaps nothing.
func info(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	input, err := io.ReadAll(io.LimitReader(stdin, maxStdin))
	if err != nil {
		return fmt.Errorf("info's stdin: %w", err)
	}
	var given anypb.Any
	if err := proto.Unmarshal(input, &given); err != nil {
		return fmt.Errorf("info's stdin: %w", err)
	}
	options, err := runtime.DecodeOptions(&given)
	if err != nil {
		return err
	}
	out := &types.RuntimeInfo{Name: Name, Version: &types.RuntimeVersion{Version: version.Version}}
	if given.GetTypeUrl() != "" {
		if out.Options, err = typeurl.MarshalAnyToProto(options); err != nil {
			return fmt.Errorf("info: options: %w", err)
		}
	}
	features, err := runtime.Features(ctx, options.GetBinaryName())
	if err != nil {
		return err
	}
	if features != nil {
		if out.Features, err = typeurl.MarshalAnyToProto(features); err != nil {
			return fmt.Errorf("info: features: %w", err)
		}
	}
	b, err := proto.Marshal(out)
	if err != nil {
		return fmt.Errorf("info: %w", err)
	}
	if _, err := stdout.Write(b); err != nil {
		return fmt.Errorf("info: %w", err)
	}
	return nil
}
