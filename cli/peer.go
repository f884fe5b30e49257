package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	nodev1 "github.com/sealift/sealift/api/node/v1"
)

func (a *app) peer() *cobra.Command {
	c := &cobra.Command{
		Use:   "peer",
		Short: "have other hosts prove themselves to this one, and watch them",
		Long: `Peers are hosts whose agents this host's agent keeps an attested channel to. Each side of it proves its boot, its
Sealift and its log to the other, bound to that very channel, and goes on proving it at an interval (attest.interval
in the configuration). What is believed is decided by the trust policy alone (attest.trust, by default
/etc/sealift/trust.yaml); a peer's name is the one in its certificate.`,
		Example: `  sealift peer add node-b 10.0.0.2:7443
  sealift peer list
  sealift peer check node-b
  sealift verify --watch node-b`,
		Annotations: map[string]string{"see": "docs/attestation.md: the trust policy, and the channel"},
		Args:        args(0, 0, ""),
		RunE:        func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.peerAdd(), a.peerList(), a.peerCheck(), a.peerRemove())
	return c
}

func (a *app) peerAdd() *cobra.Command {
	return &cobra.Command{
		Use:   "add NAME ADDRESS",
		Short: "watch a host from now on",
		Long: `Have the agent keep a channel to the host at ADDRESS (HOST:PORT, its attest.listen). NAME is the one in its
certificate; another host at that address is not believed. Adding a peer again changes its address.`,
		Example: `  sealift peer add node-b 10.0.0.2:7443`,
		Args:    args(2, 2, "NAME ADDRESS"),
		RunE: func(c *cobra.Command, args []string) error {
			if _, port, err := net.SplitHostPort(args[1]); err != nil || port == "" {
				return usage(c, fmt.Errorf("%q is not HOST:PORT", args[1]))
			}
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error {
				_, err := n.SetPeer(c.Context(), &nodev1.Peer{Name: args[0], Address: args[1]})
				return err
			})
		},
	}
}

func (a *app) peerRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "watch a host no longer",
		Long:    `Close the channel to the host and forget it, with what it had proven. A host that was distrusted and is added again begins anew.`,
		Example: `  sealift peer remove node-b`,
		Args:    args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withAgent(c.Context(), func(n nodev1.NodeClient) error {
				_, err := n.RemovePeer(c.Context(), &nodev1.Peer{Name: args[0]})
				return err
			})
		},
	}
}

func (a *app) peerList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "show the peers and how they stand",
		Long:    `Show each peer, whether it is trusted at the moment, and why not.`,
		Example: `  sealift peer list --json | jq -r 'select(.state != "trusted") | .peer.name'`,
		Args:    args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := a.peers(c.Context(), &nodev1.WatchPeersRequest{})
			return err
		},
	}
}

func (a *app) peerCheck() *cobra.Command {
	return &cobra.Command{
		Use:     "check NAME",
		Short:   "have a peer prove itself now",
		Long:    `Have the peer prove itself now, ahead of the interval, and show how it stands. The exit status is 1 if it is not trusted.`,
		Example: `  sealift peer check node-b && migrate-there`,
		Args:    args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			good, err := a.peers(c.Context(), &nodev1.WatchPeersRequest{Name: args[0], Check: true})
			if err == nil && !good {
				err = errTold
			}
			return err
		},
	}
}

// peers shows what the agent says of its peers, and whether all are trusted.
func (a *app) peers(ctx context.Context, req *nodev1.WatchPeersRequest) (good bool, err error) {
	good = true
	err = a.withAgent(ctx, func(n nodev1.NodeClient) error {
		states, err := n.WatchPeers(ctx, req)
		if err != nil {
			return err
		}
		for {
			p, err := states.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			good = good && p.GetState() == "trusted"
			if err := a.showPeer(p, req.GetFollow()); err != nil {
				return err
			}
		}
	})
	return good, err
}

// showPeer prints one peer; with at, a change and when it was seen.
func (a *app) showPeer(p *nodev1.PeerState, at bool) error {
	if a.json {
		return a.message(p)
	}
	head := ""
	if at {
		head = time.Unix(0, p.GetSinceUnixNano()).Format("2006-01-02 15:04:05") + "  "
	}
	if _, err := fmt.Fprintf(a.out, "%s%-20s %-22s %s\n", head, printable(p.GetPeer().GetName()), printable(p.GetPeer().GetAddress()), p.GetState()); err != nil {
		return err
	}
	for _, r := range p.GetReasons() {
		text := r.GetMessage()
		if r.GetSubject() != "" {
			text = r.GetSubject() + ": " + text
		}
		if _, err := fmt.Fprintf(a.out, "    %s (%s)\n", printable(text), r.GetCode()); err != nil {
			return err
		}
		if r.GetHint() != "" {
			if _, err := fmt.Fprintf(a.out, "    hint: %s\n", printable(r.GetHint())); err != nil {
				return err
			}
		}
	}
	return nil
}
