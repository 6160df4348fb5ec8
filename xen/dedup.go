package xen

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/xenferry/xenferry/savefmt"
)

// maxDedupSlots bounds the table of a sender: 32 MiB.
const maxDedupSlots = 1 << 21

// dedup remembers which pages a round has sent, by 64 bits of a keyed hash of
// their contents and the 32 of their checksum. A page is compared with few
// others, so pages that differ are taken for the same once in 2^94, and once in
// 2^62 by a guest that makes pages of one checksum: it cannot know the key. All
// lanes use it at once and nobody locks: a slot holds one page, a later one may
// displace it, and a slot that is read while another lane writes it does not
// match.
type dedup struct {
	buckets []dedupBucket
	seed    maphash.Seed
	round   uint64
}

// dedupBucket is where pages of some hashes are looked for: a line of the
// processor's cache. With one slot for a hash a guest of 2 GiB lost a quarter of
// its copies to pages that had displaced their sources.
type dedupBucket [4]dedupSlot

// dedupSlot is a page: its checksum and its pfn in one word, and the hash, mixed
// with that word, so that parts of two pages are not taken for one.
type dedupSlot struct{ hash, page atomic.Uint64 }

// mixed makes another hash of it with each page.
func mixed(hash, page uint64) uint64 { return hash ^ page*0x9E3779B97F4A7C15 }

// maxDedupPFN is what fits into a slot: pages above 16 TiB always travel.
const maxDedupPFN = math.MaxUint32

func newDedup(pages uint64) *dedup {
	const inBucket = uint64(len(dedupBucket{}))
	n := min(max(2*pages/inBucket, 2), maxDedupSlots/inBucket) // few buckets are full
	return &dedup{
		buckets: make([]dedupBucket, 1<<bits.Len64(n-1)),
		seed:    maphash.MakeSeed(),
	}
}

// begin starts a round: what earlier rounds sent may have changed since.
func (d *dedup) begin(round int) { d.round = uint64(round) * 0x9E3779B97F4A7C15 }

// find returns the pfn of a page with the same contents that travels in this
// round. If there is none, this one, whose checksum is sum, is remembered, and
// must be sent as data from the copy that was given.
func (d *dedup) find(page []byte, sum uint32, pfn uint64) (uint64, bool) {
	if pfn > maxDedupPFN {
		return 0, false
	}
	hash := maphash.Bytes(d.seed, page) ^ d.round
	bucket := &d.buckets[hash&uint64(len(d.buckets)-1)]
	place := &bucket[hash>>62] // one of four: nothing else goes by these bits
	for i := range bucket {
		slot := &bucket[i]
		other := slot.page.Load()
		known := slot.hash.Load()
		switch {
		case known == mixed(hash, other) && uint32(other>>32) == sum && other&maxDedupPFN != pfn:
			return other & maxDedupPFN, true
		case known == 0 && other == 0:
			place = slot
		}
	}
	own := uint64(sum)<<32 | pfn
	place.hash.Store(mixed(hash, own))
	place.page.Store(own)
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
