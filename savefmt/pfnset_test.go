package savefmt

import (
	"math/rand/v2"
	"testing"
)

// TestPfnSet compares with a map, where ranges are empty, few, full, and between.
func TestPfnSet(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	for _, span := range []uint64{40, 1 << rangeShift, 1 << 18, MaxStockPFN} {
		var s pfnSet
		known := map[uint64]bool{}
		for range 20_000 {
			pfn := rnd.Uint64N(span + 1)
			if got := s.add(pfn); got == known[pfn] {
				t.Fatalf("below %#x: pfn %#x is new: %v", span, pfn, got)
			}
			known[pfn] = true
		}
		if s.count != uint64(len(known)) {
			t.Errorf("below %#x: %d pfns, want %d", span, s.count, len(known))
		}
	}
}

// TestPfnSetSparse: pages that lie apart take a small part of the memory that
// they fill, however many there are.
func TestPfnSetSparse(t *testing.T) {
	const ranges = 1 << 16
	for _, each := range []uint64{1, 8, maxFew} {
		var s pfnSet
		got := allocatedBy(func() {
			for id := uint64(0); id < ranges; id++ {
				for i := range each {
					s.add(id<<rangeShift | i*100)
				}
			}
		})
		if limit := ranges * each * 160; got > limit { // with what growing leaves behind
			t.Errorf("%d pfns in each of %d ranges: %d bytes were allocated, want at most %d", each, ranges, got, limit)
		}
	}
}
