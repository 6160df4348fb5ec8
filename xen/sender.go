package xen

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// sender sends the pages of a guest, round by round.
//
// Stages of a round: a cursor hands out batches of pfns in order (one at a
// time, a lock a batch). Each connection has a lane of two goroutines, which
// work in parallel with each other and with the other lanes: one prepares
// batches (maps, finds the zero pages, sums, copies and compresses), the other
// writes them. A round ends when every lane has written its round-end frame:
// no pfn is in flight twice.
type sender struct {
	dom         Domain
	lanes       []*lane
	connections int // which share the memory of long windows
	tuner       *tuner
	dedup       *dedup // made by the first round, of whose size it is; touched only where pages are compressed
	limit       *RateLimit
	gate        *gate
	skip        SkipRule
	ahead       *lookahead // what lanes do while the link has no time for pages; nil: nothing. Written between rounds

	ofPages atomic.Uint64 // in this round
	round   atomic.Int64
	first   bool    // no page of this round was sent before; written between rounds
	before  traffic // when this round began; the same
	mu      sync.Mutex
}

func newSender(dom Domain, outs []frameWriter, p *PipeOptions) (*sender, error) {
	s := &sender{dom: dom, connections: len(outs), tuner: newTuner(p.Compress, len(outs)), limit: p.RateLimit, gate: newGate(len(outs)), skip: DefaultSkip}
	if p.RateLimit != nil {
		s.tuner.cap = p.RateLimit.bytesPerSec
	}
	if p.Skip != nil {
		s.skip = *p.Skip
	}
	for i, out := range outs {
		l, err := newLane(s, i, out)
		if err != nil {
			return nil, err
		}
		s.lanes = append(s.lanes, l)
	}
	return s, nil
}

// cursor hands out the pfns of a bitmap in batches, ascending.
type cursor struct {
	mu    sync.Mutex
	bm    Bitmap
	next  uint64
	pages uint64
	most  int // pages in a batch
	small int // so many of the next batches have leastBatch at most
	// aligned ends each batch at a multiple of BatchPages, so that the pages
	// of one large page stay together.
	aligned bool
}

// fill fills b, and tells whether there was anything left.
func (c *cursor) fill(b *Batch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.Reset()
	most := c.most
	if c.small > 0 {
		c.small--
		most = min(most, leastBatch)
	}
	for c.next < c.pages && len(b.PFNs) < most {
		// What still fits, at most: a step never finds more than it covers.
		step := min(c.pages, c.next+uint64(most-len(b.PFNs)))
		if c.aligned {
			step = min(step, (c.next/BatchPages+1)*BatchPages)
		}
		b.PFNs = c.bm.AppendRange(b.PFNs, c.next, step)
		c.next = step
		if c.aligned && len(b.PFNs) > 0 {
			break
		}
	}
	return len(b.PFNs) > 0
}

// A guest's first batches, as many as there are lanes, are small: how the next are
// encoded depends on how soon these arrive. A round that is short has smaller
// batches, batchesPerLane for each lane but none of less than leastBatch: the
// lanes end at the same time, and the stages of each overlap. Of the last round
// all of that is downtime.
const (
	leastBatch     = 64 // pages
	batchesPerLane = 2
)

func (s *sender) batchSize(pages uint64, first bool) int {
	parts := uint64(batchesPerLane * len(s.lanes))
	if even := (pages + parts - 1) / parts; !first && even < BatchPages {
		return max(int(even), leastBatch)
	}
	return BatchPages
}

// send sends the pages in bm as one round, and returns when all are written.
// first: none of them was sent before, so that there is nothing to be said of a
// pfn without a page.
func (s *sender) send(ctx context.Context, round int, bm Bitmap, flags uint16, first bool) (RoundStats, error) {
	start := time.Now()
	pages := bm.Count()
	s.begin(round, pages, first)
	cur := &cursor{bm: bm, pages: s.dom.Pages(), most: s.batchSize(pages, first), aligned: first}
	if first {
		cur.small = len(s.lanes)
	}
	errs := make(chan error, len(s.lanes))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, l := range s.lanes {
		go func() {
			err := l.run(ctx, cur, uint32(round), flags)
			if err != nil {
				cancel() // the others stop at their next batch
			}
			errs <- err
		}()
	}
	var cause error
	for range s.lanes {
		if err := <-errs; err != nil && (cause == nil || cause == context.Canceled) {
			cause = err
		}
	}
	return s.roundStats(round, time.Since(start)), cause
}

func (s *sender) begin(round int, pages uint64, first bool) {
	s.first = first
	s.mu.Lock()
	s.before = s.traffic()
	s.mu.Unlock()
	s.round.Store(int64(round))
	s.ofPages.Store(pages)
	if s.dedup == nil {
		s.dedup = newDedup(pages) // the address space may be many times what has pages
	}
	s.dedup.begin(round)
	s.gate.begin()
}

// work makes so many of the lanes work, 1 to all: the others hold back from
// their next batches on.
func (s *sender) work(lanes int) {
	s.tuner.setLanes(lanes)
	s.gate.set(lanes)
}

func (s *sender) roundStats(round int, took time.Duration) RoundStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.traffic()
	return now.since(&s.before).stats(round, took, len(s.lanes), s.tuner.methods.all())
}
