package xen

import (
	"math"

	"github.com/xenferry/xenferry/savefmt"
)

// The controller chooses how pages are encoded. All of it is pure: what was
// measured goes in, a method comes out. What it chooses is the best of all for
// this link and these cores; from there each batch may go one step to either
// side (see shift), so that neither waits for the other.
//
// With method m the guest moves at
//
//	min(speed of m, ratio of m x speed of the link)
//
// bytes of pages a second: the encoders work while the link does, so the slower
// of the two counts, and what a stronger method costs matters only where the
// encoders are the slower. The speed of the link is what the other end takes,
// its decoders included, so each method has its own.

// methodRate is what is known of a method.
type methodRate struct {
	speed    float64 // bytes of pages a second, of all lanes together
	ratio    float64 // bytes of pages for each byte that travels
	link     float64 // bytes a second that travel, while this method is used; infinite if unknown
	measured bool    // lately; else it is derived from others
}

// priors are rough figures of one lane, from one sample of binaries and text.
// Once one of the methods was measured only how they relate to each other
// counts.
var priors = map[savefmt.Codec]methodRate{
	savefmt.CodecRaw:  {speed: 4e9, ratio: 1},
	savefmt.CodecS2:   {speed: 550e6, ratio: 2.3},
	savefmt.CodecZstd: {speed: 250e6, ratio: 3.2},
	savefmt.CodecZlib: {speed: 170e6, ratio: 2.8},

	savefmt.CodecZstdLong: {speed: 185e6, ratio: 3.28},
}

// fastPrior is that of a zstd level below 0.
var fastPrior = methodRate{speed: 400e6, ratio: 2.7}

func prior(m savefmt.Method) methodRate {
	if m.Level < 0 {
		return fastPrior
	}
	return priors[m.Codec]
}

// complete derives the methods that are not measured from those that are: if
// one compresses this guest better than expected, so will its neighbour. Raw
// tells nothing of the others.
func complete(methods []savefmt.Method, lanes int, rates []methodRate) {
	for i := range rates {
		if rates[i].measured {
			continue
		}
		p := prior(methods[i])
		p.speed *= float64(lanes)
		p.link = rates[i].link
		if k := nearestMeasured(methods, rates, i); k >= 0 && p.ratio > 1 {
			q := prior(methods[k])
			p.speed *= rates[k].speed / (q.speed * float64(lanes))
			// A ratio of 1 stays 1, so what is above it is scaled.
			p.ratio = 1 + (p.ratio-1)*max(rates[k].ratio-1, 0)/(q.ratio-1)
		}
		rates[i] = p
	}
}

// nearestMeasured returns the measured method next to i, other than raw, or -1.
func nearestMeasured(methods []savefmt.Method, rates []methodRate, i int) int {
	best := -1
	for k := range rates {
		if rates[k].measured && methods[k].Codec != savefmt.CodecRaw && (best < 0 || abs(k-i) < abs(best-i)) {
			best = k
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

// throughput predicts bytes of pages a second.
func (r methodRate) throughput() float64 { return min(r.speed, r.link*r.ratio) }

// A change of method must promise this much, or figures that waver make the
// choice do so too. To begin to compress must promise more: it costs this host
// and the other CPU time that a fast link does not ask for.
const (
	gainToChange   = 1.02
	gainToCompress = 1.15
	gainToStay     = 1.05 // over sending pages as they are
)

// The same for a host without a core to spare: there the link may look slow
// only because the ends get too little of the cores, and compressing leaves
// them less.
const (
	gainToCompressBusy = 2
	gainToStayBusy     = 1.4
)

// bestMethod returns which of rates moves the guest soonest. Rates go from the
// fastest to the strongest, current is the one in use. busy: no core here is
// idle.
func bestMethod(rates []methodRate, current int, busy bool) int {
	if math.IsInf(rates[current].link, 1) {
		return 0 // the fastest finds out soonest
	}
	compress, stay := gainToCompress, gainToStay
	if busy {
		compress, stay = gainToCompressBusy, gainToStayBusy
	}
	best, bar := current, rates[current].throughput()
	for i, r := range rates {
		need := gainToChange
		if best == 0 && i > 0 {
			need = compress
		}
		if t := r.throughput(); t > bar*need {
			best, bar = i, t
		}
	}
	if best > 0 && bar < rates[0].throughput()*stay {
		return 0
	}
	return best
}

// backlog is what a lane has ready for the link when it begins a batch.
type backlog int

const (
	backlogNone   backlog = iota // the link is about to have nothing to do
	backlogSome                  // it has enough for now
	backlogQueued                // a batch waits: the link is the slower one
)

// shift returns the method for a lane's next batch, where chosen of n methods
// (from the fastest to the strongest) is the best for all: while the link is
// the slower one there is time for a stronger one, and if it starves a faster
// one helps. Pages that go as they are mean that the link is not to be waited
// for: that stays.
func shift(chosen, n int, b backlog) int {
	switch {
	case chosen == 0:
	case b == backlogQueued:
		return min(chosen+1, n-1)
	case b == backlogNone:
		return chosen - 1
	}
	return chosen
}
