package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/sealift/sealift/api/node/v1"
	apipeer "github.com/sealift/sealift/api/peer"
	"github.com/sealift/sealift/attest/certificate"
	"github.com/sealift/sealift/attest/channel"
	"github.com/sealift/sealift/attest/evidence"
	"github.com/sealift/sealift/attest/trust"
	"github.com/sealift/sealift/attest/verify"
	"github.com/sealift/sealift/attest/watch"
	"github.com/sealift/sealift/measure/eventlog"
)

// peers are the other hosts: those that ask this one to prove itself, and those
// it watches.
type peers struct {
	endpoint *channel.Endpoint
	list     *watch.Peers
}

// channelProver is the prover as the channel asks it.
type channelProver struct{ *prover }

func (p channelProver) Prove(ctx context.Context, b evidence.Binding, from channel.Place) ([]byte, error) {
	return p.prover.Prove(ctx, b, view{from: from.Seq, epoch: eventlog.Hash(from.Epoch)})
}

// openPeers begins to watch those on the list. Its error is the attestation key's,
// or about the files under attest.directory.
func (a *Agent) openPeers(ctx context.Context) (*peers, error) {
	c := a.config.Attest
	ak, err := a.prover.attestationKey(ctx)
	if err != nil {
		return nil, err
	}
	points, err := channel.OpenCheckpoints(filepath.Join(c.Directory, "checkpoints"))
	if err != nil {
		return nil, err
	}
	p := &peers{}
	p.endpoint, err = channel.New(channel.Config{
		Key: a.channel.Signer(), AKName: ak.Name(), Prover: channelProver{a.prover},
		Appraiser: &channel.Judge{Grounds: a.grounds, Checkpoints: points}, Interval: time.Duration(c.Interval),
	})
	if err != nil {
		return nil, err
	}
	p.list, err = watch.OpenPeers(ctx, watch.PeersConfig{
		Endpoint: p.endpoint, Checkpoints: points, File: filepath.Join(c.Directory, "peers.json"), Interval: time.Duration(c.Interval),
		Failed: func(err error) { slog.Error("peers", "err", err) },
	})
	return p, err
}

// grounds are what peers are judged by: the files as they are now.
func (a *Agent) grounds() (g channel.Grounds, err error) {
	c := a.config.Attest
	if g.Trust, err = trust.Load(c.Trust); err != nil {
		return g, err
	}
	files, err := os.ReadDir(c.Revocation)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return g, fmt.Errorf("revocation lists: %w", err)
	}
	for _, f := range files {
		b, err := certificate.ReadLists(filepath.Join(c.Revocation, f.Name()))
		if err != nil {
			return g, err
		}
		g.Revocation = append(g.Revocation, b)
	}
	return g, nil
}

// servePeers answers peers, watches those on the list, and records what changes
// about them, until ctx ends. A host that cannot attest goes on starting
// containers: whoever asks for its peers is told why there are none, and it is
// tried again.
func (a *Agent) servePeers(ctx context.Context) error {
	p := a.awaitPeers(ctx)
	if p == nil {
		return nil
	}
	a.peers.Store(p)
	defer p.list.Wait()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ignoreCancel(ctx, p.list.Follow(ctx, "", a.peerChanged)) })
	if l := listenToPeers(a.config.Attest.Listen); l != nil {
		// A peer that only watches sends nothing over its channel; the channel
		// itself ends when the peer no longer proves itself.
		s := grpc.NewServer(grpc.Creds(p.endpoint.Credentials(channel.Target{})), grpc.ConnectionTimeout(forever))
		apipeer.Service(s, a.build)
		slog.Info("peers may connect", "address", l.Addr())
		g.Go(func() error { return s.Serve(l) })
		g.Go(func() error { <-ctx.Done(); s.Stop(); return nil })
	}
	return g.Wait()
}

// peersPause is between two tries to make the attestation key: the TPM may be away.
const peersPause = 30 * time.Second

// awaitPeers opens the peers, again and again where that is not possible; nil
// when ctx ends first.
func (a *Agent) awaitPeers(ctx context.Context) *peers {
	for {
		p, err := a.openPeers(ctx)
		if err == nil {
			return p
		}
		a.peersErr.Store(&err)
		slog.Error("no attested peers for now", "err", err)
		select {
		case <-time.After(peersPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// listenToPeers returns nil where nobody is to be answered, or nobody can be:
// containers start all the same.
func listenToPeers(address string) net.Listener {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		slog.Error("peers cannot connect: attest.listen", "err", err)
		return nil
	}
	return l
}

const forever = 100 * 365 * 24 * time.Hour

func ignoreCancel(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// peerBody is the body of "peer": how another host stands from now on.
type peerBody struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	State   string `json:"state"`
	Code    string `json:"code"`
	Subject string `json:"subject,omitempty"`
	Text    string `json:"text"`
	Over    bool   `json:"over,omitempty"`
}

func (a *Agent) peerChanged(p watch.Peer, changes []watch.Change) error {
	for _, c := range changes {
		slog.Info("peer", "name", p.Name, "state", c.To, "code", c.Code, "subject", c.Subject, "what", c.Text)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := a.log.Append(ctx, eventlog.Event{Type: "peer", Reserved: true, Body: peerBody{
			Name: p.Name, Address: p.Address, State: string(c.To), Code: c.Code, Subject: c.Subject, Text: c.Text, Over: c.Over,
		}})
		cancel()
		if err != nil {
			slog.Warn("peer's change not recorded", "name", p.Name, "err", err)
		}
	}
	return nil
}

// watched gives the peers, or says why there are none.
func (s *cliService) watched() (*watch.Peers, error) {
	if p := s.a.peers.Load(); p != nil {
		return p.list, nil
	}
	if err := s.a.peersErr.Load(); err != nil {
		return nil, status.Error(codes.FailedPrecondition, (*err).Error())
	}
	return nil, status.Error(codes.Unavailable, "the agent is starting\nhint: try again")
}

func (s *cliService) SetPeer(_ context.Context, req *nodev1.Peer) (*nodev1.PeerResponse, error) {
	list, err := s.watched()
	if err == nil {
		err = list.Set(req.GetName(), req.GetAddress())
	}
	return &nodev1.PeerResponse{}, peerStatus(err)
}

func (s *cliService) RemovePeer(_ context.Context, req *nodev1.Peer) (*nodev1.PeerResponse, error) {
	list, err := s.watched()
	if err == nil {
		err = list.Remove(req.GetName())
	}
	return &nodev1.PeerResponse{}, peerStatus(err)
}

func peerStatus(err error) error {
	var none *watch.NotAPeerError
	switch _, known := status.FromError(err); {
	case err == nil, known:
		return err
	case errors.As(err, &none):
		return status.Error(codes.NotFound, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

func (s *cliService) WatchPeers(ctx context.Context, req *nodev1.WatchPeersRequest, out nodev1.Node_WatchPeersServer) error {
	list, err := s.watched()
	if err != nil {
		return err
	}
	if req.GetCheck() {
		if _, err := list.Check(ctx, req.GetName()); err != nil {
			return peerStatus(err)
		}
	}
	if req.GetFollow() {
		return ignoreCancel(ctx, peerStatus(list.Follow(ctx, req.GetName(), func(p watch.Peer, changes []watch.Change) error {
			return sendPeer(out, p, changes)
		})))
	}
	found := false
	for _, p := range list.List() {
		if req.GetName() != "" && p.Name != req.GetName() {
			continue
		}
		found = true
		if err := sendPeer(out, p, nil); err != nil {
			return err
		}
	}
	if !found && req.GetName() != "" {
		return peerStatus(&watch.NotAPeerError{Name: req.GetName()})
	}
	return nil
}

// sendPeer sends how a peer stands: with changes, these are the reasons.
func sendPeer(out nodev1.Node_WatchPeersServer, p watch.Peer, changes []watch.Change) error {
	st := p.Status
	m := &nodev1.PeerState{Peer: &nodev1.Peer{Name: p.Name, Address: p.Address}, State: string(st.State), SinceUnixNano: st.Since.UnixNano()}
	if !st.Checked.IsZero() {
		m.CheckedUnixNano = st.Checked.UnixNano()
	}
	if st.Verdict != nil {
		b, err := json.Marshal(st.Verdict)
		if err != nil {
			return fmt.Errorf("verdict on %s: %w", p.Name, err)
		}
		m.Verdict = b
	}
	for _, r := range st.Reasons {
		if changes == nil && (r.Status != verify.Warning || st.State != watch.Trusted) {
			m.Reasons = append(m.Reasons, &nodev1.Reason{Code: r.Code, Subject: r.Subject, Message: r.Message, Hint: r.Hint})
		}
	}
	for _, c := range changes {
		m.Reasons = append(m.Reasons, &nodev1.Reason{Code: c.Code, Subject: c.Subject, Message: c.Text, Hint: c.Hint})
	}
	return out.Send(m)
}
