package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// qmp is a connection to QEMU's monitor (QEMU, docs/interop/qmp-spec).
type qmp struct {
	net.Conn
	in *json.Decoder
}

type qmpReply struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class       string `json:"class"`
		Description string `json:"desc"`
	} `json:"error"`
}

// qmpPatience is how long QEMU may take to do what it is told.
const qmpPatience = 30 * time.Second

func dialQMP(ctx context.Context, p *process, socket string) (*qmp, error) {
	c, err := dial(ctx, p, socket)
	if err != nil {
		return nil, err
	}
	q := &qmp{Conn: c, in: json.NewDecoder(c)}
	var hello qmpReply
	if err := q.in.Decode(&hello); err != nil || hello.Greeting == nil {
		return nil, errors.Join(fmt.Errorf("QEMU's monitor: no greeting: %w", err), c.Close())
	}
	if err := q.command(ctx, "qmp_capabilities"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return q, nil
}

// command executes one command without arguments.
func (q *qmp) command(ctx context.Context, name string) error {
	deadline := time.Now().Add(qmpPatience)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := q.SetDeadline(deadline); err != nil {
		return err
	}
	if err := json.NewEncoder(q).Encode(map[string]string{"execute": name}); err != nil {
		return fmt.Errorf("QEMU's monitor: %s: %w", name, err)
	}
	for {
		var r qmpReply
		switch err := q.in.Decode(&r); {
		case err != nil:
			return fmt.Errorf("QEMU's monitor: %s: %w", name, err)
		case r.Error != nil:
			return fmt.Errorf("QEMU's monitor: %s: %s: %s", name, r.Error.Class, r.Error.Description)
		case r.Return != nil:
			return nil
		}
		// Anything else is an event that nobody waits for.
	}
}
