package xl

import (
	"math/bits"
	"sync/atomic"
)

// pageSet is a set of pfns that several goroutines may fill at once. Its parts
// are made when they are first needed, so that a guest with a page at a high
// address, or a sender that claims a huge one, costs next to nothing.
type pageSet struct {
	pages  uint64
	chunks []atomic.Pointer[pageChunk]
}

// chunkPages is 1 GiB of guest: 32 KiB of bits.
const chunkPages = 1 << 18

type pageChunk [chunkPages / 64]uint64

// newPageSet returns an empty set of pfns below pages, which xen.MaxPages
// bounds.
func newPageSet(pages uint64) *pageSet {
	return &pageSet{pages, make([]atomic.Pointer[pageChunk], (pages+chunkPages-1)/chunkPages)}
}

// has tells whether pfn is in the set.
func (s *pageSet) has(pfn uint64) bool {
	if pfn >= s.pages {
		return false
	}
	c := s.chunks[pfn/chunkPages].Load()
	return c != nil && atomic.LoadUint64(&c[pfn%chunkPages/64])&(1<<(pfn%64)) != 0
}

// add puts pfn, which is below the set's limit, into it.
func (s *pageSet) add(pfn uint64) {
	slot := &s.chunks[pfn/chunkPages]
	if slot.Load() == nil {
		slot.CompareAndSwap(nil, new(pageChunk)) // another may have been quicker
	}
	atomic.OrUint64(&slot.Load()[pfn%chunkPages/64], 1<<(pfn%64))
}

// addRange puts the n pfns from pfn on into it.
func (s *pageSet) addRange(pfn, n uint64) {
	for i := range n {
		s.add(pfn + i)
	}
}

// remove takes pfn out, and tells whether it was in the set.
func (s *pageSet) remove(pfn uint64) bool {
	if !s.has(pfn) {
		return false
	}
	bit := uint64(1) << (pfn % 64)
	return atomic.AndUint64(&s.chunks[pfn/chunkPages].Load()[pfn%chunkPages/64], ^bit)&bit != 0
}

// all returns what is in the set, ascending.
func (s *pageSet) all() (pfns []uint64) {
	for c := range s.chunks {
		chunk := s.chunks[c].Load()
		if chunk == nil {
			continue
		}
		for w := range chunk {
			for word := atomic.LoadUint64(&chunk[w]); word != 0; word &= word - 1 {
				pfns = append(pfns, uint64(c)*chunkPages+uint64(w)*64+uint64(bits.TrailingZeros64(word)))
			}
		}
	}
	return pfns
}
