package agent

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	"github.com/sealift/sealift/measure/eventlog"
)

// ReadLog streams stored lines. Without a filter they are all lines, from which
// the log can be verified; with one they are the items that match.
func (s *cliService) ReadLog(ctx context.Context, req *nodev1.ReadLogRequest, out nodev1.Node_ReadLogServer) error {
	send := func(seq uint64, line []byte) error {
		keep, err := matches(line, req.GetNamespace(), req.GetId())
		if err != nil || !keep {
			return err
		}
		return out.Send(&nodev1.LogLine{Seq: seq, Line: line})
	}
	if req.GetEpoch() == "" {
		err := s.a.log.Read(ctx, req.GetFrom(), req.GetFollow(), send)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	if req.GetFollow() {
		return status.Error(codes.InvalidArgument, "only the present epoch can be followed")
	}
	lines, err := eventlog.Lines(s.a.config.Log.Directory, req.GetEpoch())
	if err != nil {
		return status.Error(codes.NotFound, err.Error())
	}
	for line, err := range lines {
		if err != nil {
			return err
		}
		seq, err := eventlog.LineSeq(line)
		if err != nil {
			return err
		}
		if seq < req.GetFrom() {
			continue
		}
		if err := send(seq, line); err != nil {
			return err
		}
	}
	return nil
}

func matches(line []byte, namespace, id string) (bool, error) {
	if namespace == "" && id == "" {
		return true, nil
	}
	l, err := eventlog.DecodeLine(line)
	if err != nil || l.Item == nil {
		return false, err
	}
	r, err := l.Item.Open()
	if err != nil {
		return false, err
	}
	return (namespace == "" || r.Namespace == namespace) && (id == "" || r.Container == id), nil
}
