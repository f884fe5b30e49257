package runtime

import (
	"fmt"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// containerd 1.7's client packs task options for every runtime whose name does
// not begin with io.containerd.runc in the messages of its first shim (package
// containerd.linux.runc, gone in 2.0). Field numbers are those of its runc.proto.
const (
	v1Create     = "containerd.linux.runc.CreateOptions"
	v1Checkpoint = "containerd.linux.runc.CheckpointOptions"
)

// v1Fields are the fields of such a message that are known here, by number;
// those that repeat are in order.
type v1Fields struct {
	numbers map[protowire.Number]uint64
	texts   map[protowire.Number][]string
}

func (f v1Fields) flag(n protowire.Number) bool { return f.numbers[n] != 0 }

func (f v1Fields) text(n protowire.Number) string {
	if t := f.texts[n]; len(t) > 0 {
		return t[len(t)-1]
	}
	return ""
}

func parseV1(name string, b []byte) (v1Fields, error) {
	f := v1Fields{map[protowire.Number]uint64{}, map[protowire.Number][]string{}}
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return f, fmt.Errorf("%s: %w: %w", name, protowire.ParseError(n), errdefs.ErrInvalidArgument)
		}
		b = b[n:]
		switch kind {
		case protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			f.numbers[num] = v
		case protowire.BytesType:
			var v []byte
			v, n = protowire.ConsumeBytes(b)
			f.texts[num] = append(f.texts[num], string(v))
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return f, fmt.Errorf("%s: field %d: %w: %w", name, num, protowire.ParseError(n), errdefs.ErrInvalidArgument)
		}
		b = b[n:]
	}
	return f, nil
}

func decodeV1Create(b []byte) (*runcoptions.Options, error) {
	f, err := parseV1(v1Create, b)
	if err != nil {
		return nil, err
	}
	return &runcoptions.Options{
		NoPivotRoot: f.flag(1), NoNewKeyring: f.flag(8), ShimCgroup: f.text(9),
		IoUid: uint32(f.numbers[10]), IoGid: uint32(f.numbers[11]),
		CriuWorkPath: f.text(12), CriuImagePath: f.text(13),
	}, nil
}

// DecodeCheckpointOptions turns the options of a checkpoint into runc's: they
// may be those, containerd 1.7's first kind, or nothing. Its result is never
// nil. Another type is an error of class errdefs.ErrInvalidArgument.
func DecodeCheckpointOptions(a *anypb.Any) (*runcoptions.CheckpointOptions, error) {
	o := &runcoptions.CheckpointOptions{}
	switch {
	case a == nil || a.GetTypeUrl() == "":
		return o, nil
	case a.MessageIs(o):
		if err := a.UnmarshalTo(o); err != nil {
			return nil, fmt.Errorf("checkpoint options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return o, nil
	case a.MessageName() != v1Checkpoint:
		return nil, fmt.Errorf("checkpoint options of type %q: want %s: %w", a.GetTypeUrl(), o.ProtoReflect().Descriptor().FullName(), errdefs.ErrInvalidArgument)
	}
	f, err := parseV1(v1Checkpoint, a.GetValue())
	if err != nil {
		return nil, err
	}
	return &runcoptions.CheckpointOptions{
		Exit: f.flag(1), OpenTcp: f.flag(2), ExternalUnixSockets: f.flag(3), Terminal: f.flag(4), FileLocks: f.flag(5),
		EmptyNamespaces: f.texts[6], CgroupsMode: f.text(7), WorkPath: f.text(8), ImagePath: f.text(9),
	}, nil
}
