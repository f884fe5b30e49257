package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sealift/sealift/api/node"
	nodev1 "github.com/sealift/sealift/api/node/v1"
)

// burst releases launches together: each has a connection of its own, opened
// before the first of them speaks. It answers with the sequence numbers.
func burst(message json.RawMessage) ([]byte, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(message, &raw); err != nil {
		return nil, err
	}
	var ready, done sync.WaitGroup
	barrier := make(chan struct{})
	seqs, errs := make([]uint64, len(raw)), make([]error, len(raw))
	for i := range raw {
		m := &nodev1.LaunchRequest{}
		if err := protojson.Unmarshal(raw[i], m); err != nil {
			return nil, err
		}
		c, err := node.Dial(context.Background(), node.Socket, "shim", "probe")
		if err != nil {
			return nil, err
		}
		defer c.Close()
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-barrier
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			r, err := c.Launch(ctx, m)
			if err == nil && r.GetCommitted() == nil {
				err = fmt.Errorf("%s is refused: %v", m.GetId(), r.GetRefused())
			}
			seqs[i], errs[i] = r.GetCommitted().GetSeq(), err
		})
	}
	ready.Wait()
	close(barrier)
	done.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return json.Marshal(seqs)
}
