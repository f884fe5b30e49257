package main

import (
	"math/rand/v2"
	"slices"
)

// resamples is how often the bootstrap draws.
const resamples = 2000

// ratio compares two interleaved series by their medians.
func ratio(name, unit, peerName string, ours, peer []float64) Row {
	r := Row{Name: name, Unit: unit, PeerName: peerName, N: len(ours), Ours: median(ours), Peer: median(peer)}
	r.Ratio = r.Ours / r.Peer
	// A fixed seed: the same measurements give the same interval.
	random := rand.New(rand.NewPCG(1, 2))
	drawn := make([]float64, resamples)
	for i := range drawn {
		drawn[i] = median(draw(random, ours)) / median(draw(random, peer))
	}
	slices.Sort(drawn)
	r.Lo, r.Hi = drawn[resamples*25/1000], drawn[resamples*975/1000]
	return r
}

func draw(random *rand.Rand, v []float64) []float64 {
	out := make([]float64, len(v))
	for i := range out {
		out[i] = v[random.IntN(len(v))]
	}
	return out
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	if len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[len(s)/2]
}
