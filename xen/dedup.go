package xen

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"

	"github.com/xenferry/xenferry/savefmt"
)

// maxDedupSlots bounds the table of a sender: 24 MiB.
const maxDedupSlots = 1 << 20

// dedup remembers which pages a round has sent, by 64 bits of a keyed hash of
// their contents and the 32 of their checksum. A page is compared with one
// other at most, so pages that differ are taken for the same once in 2^96, and
// once in 2^64 by a guest that makes pages of one checksum: it cannot know the
// key. All lanes use it at once and nobody locks: a slot holds one page, a
// later one displaces it, and a slot that is read while another lane writes it
// does not match.
type dedup struct {
	slots []dedupSlot
	seed  maphash.Seed
	round uint64
}

// dedupSlot is a page. Hash and checksum are stored mixed with pfn, so that
// parts of two pages are not taken for one.
type dedupSlot struct{ hash, sum, pfn atomic.Uint64 }

func newDedup(pages uint64) *dedup {
	n := min(max(pages, 2), maxDedupSlots)
	return &dedup{
		slots: make([]dedupSlot, 1<<bits.Len64(n-1)),
		seed:  maphash.MakeSeed(),
	}
}

// begin starts a round: what earlier rounds sent may have changed since.
func (d *dedup) begin(round int) { d.round = uint64(round) * 0x9E3779B97F4A7C15 }

// find returns the pfn of a page with the same contents that travels in this
// round. If there is none, this one, whose checksum is sum, is remembered, and
// must be sent as data from the copy that was given.
func (d *dedup) find(page []byte, sum uint32, pfn uint64) (uint64, bool) {
	hash := maphash.Bytes(d.seed, page) ^ d.round
	wide := uint64(sum) ^ d.round
	slot := &d.slots[hash&uint64(len(d.slots)-1)]
	other := slot.pfn.Load()
	if slot.hash.Load()^other == hash && slot.sum.Load()^bits.ReverseBytes64(other) == wide && other != pfn {
		return other, true
	}
	slot.hash.Store(hash ^ pfn)
	slot.sum.Store(wide ^ bits.ReverseBytes64(pfn))
	slot.pfn.Store(pfn)
	return 0, false
}

// copyList collects the copies that a lane has found in a round.
type copyList struct {
	waiting []savefmt.Copy // not yet in a frame
	total   int            // found in this round
}

func (c *copyList) begin() { c.waiting, c.total = c.waiting[:0], 0 }

// full tells whether the destination would take no more of them.
func (c *copyList) full() bool { return c.total >= savefmt.MaxCopies }

func (c *copyList) add(e savefmt.Copy) {
	c.waiting = append(c.waiting, e)
	c.total++
}

// flush puts the waiting copies into the job, as long as there are least of
// them for a frame.
func (c *copyList) flush(j *job, round uint32, flags uint16, least int) {
	done := 0
	for len(c.waiting)-done >= least {
		n := min(len(c.waiting)-done, savefmt.MaxPages)
		j.head = savefmt.AppendCopies(j.head, round, flags, c.waiting[done:done+n])
		done += n
	}
	c.waiting = c.waiting[:copy(c.waiting, c.waiting[done:])]
}
