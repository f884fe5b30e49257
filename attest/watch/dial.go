package watch

import (
	"context"
	"fmt"
	"net"

	"github.com/sealift/sealift/attest/channel"
)

// Dial gives a Config's Open: TCP to address, and a channel to the target over
// it.
func Dial(e *channel.Endpoint, address string, t channel.Target) func(context.Context) (Session, error) {
	return func(ctx context.Context) (Session, error) {
		var d net.Dialer
		raw, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("%w\nhint: is sealiftd running there, and does it listen for peers?", err)
		}
		c, err := e.Client(ctx, raw, t)
		if err != nil {
			// Not the nil *Conn in an interface that is not nil.
			return nil, err
		}
		return c, nil
	}
}
