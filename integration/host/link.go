package host

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
)

// Link joins two hosts by a cable: each gets an interface of this name with its
// address (with prefix length). It goes when either host goes.
func Link(ctx context.Context, name string, a *Host, addressA string, b *Host, addressB string) error {
	out, err := exec.CommandContext(ctx, "ip", "link", "add", name, "netns", strconv.Itoa(a.PID),
		"type", "veth", "peer", "name", name, "netns", strconv.Itoa(b.PID)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("link %s between %s and %s: %w\n%s", name, a.Name, b.Name, err, out)
	}
	for h, address := range map[*Host]string{a: addressA, b: addressB} {
		if _, err := h.Shell(ctx, "ip address add "+address+" dev "+name+"; ip link set "+name+" up"); err != nil {
			return err
		}
	}
	return nil
}
