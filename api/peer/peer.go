// Package peer is the exchange of versions between two agents. The messages
// are in peer/v1; the attested channel below is attest/channel.
package peer

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	peerv1 "github.com/sealift/sealift/api/peer/v1"
)

// Version is the minor version of package sealift.peer.v1 this build speaks.
const Version = 1

// maxServices and maxBuild bound what is taken from the other side.
const (
	maxServices = 64
	maxBuild    = 256
)

// Hello exchanges versions. Its error says what the peer answered.
func Hello(ctx context.Context, c grpc.ClientConnInterface, build string) (*peerv1.HelloResponse, error) {
	r, err := peerv1.NewPeerClient(c).Hello(ctx, &peerv1.HelloRequest{Version: Version, Build: build})
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	if r.Version == 0 || len(r.Services) > maxServices || len(r.Build) > maxBuild {
		return nil, fmt.Errorf("hello: answer names version %d, %d services, a build of %d bytes\nhint: is the peer a Sealift agent?",
			r.Version, len(r.Services), len(r.Build))
	}
	return r, nil
}

// Service answers Hello. Register it after the other services of s: it names
// them.
func Service(s *grpc.Server, build string) {
	h := &hello{build: build}
	for name := range s.GetServiceInfo() {
		h.services = append(h.services, name)
	}
	slices.Sort(h.services)
	peerv1.RegisterPeerServer(s, h)
}

type hello struct {
	peerv1.UnimplementedPeerServer
	build    string
	services []string
}

func (h *hello) Hello(context.Context, *peerv1.HelloRequest) (*peerv1.HelloResponse, error) {
	return &peerv1.HelloResponse{Version: Version, Build: h.build, Services: h.services}, nil
}
