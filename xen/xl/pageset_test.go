package xl

import (
	"sync"
	"testing"

	"github.com/xenferry/xenferry/xen"
)

func TestPageSet(t *testing.T) {
	s := newPageSet(xen.MaxPages)
	pfns := []uint64{0, 63, 64, chunkPages - 1, chunkPages, xen.MaxPages - 1}
	for _, p := range pfns {
		if s.has(p) {
			t.Errorf("pfn %#x is in an empty set", p)
		}
		s.add(p)
	}
	for _, p := range pfns {
		if !s.has(p) {
			t.Errorf("pfn %#x was added and is not there", p)
		}
	}
	for _, p := range []uint64{1, 62, 65, chunkPages + 1, xen.MaxPages, 1 << 63} {
		if s.has(p) {
			t.Errorf("pfn %#x is there and was not added", p)
		}
	}
}

func TestPageSetParallel(t *testing.T) {
	const pages, workers = 3 * chunkPages / 2, 4
	s := newPageSet(pages)
	var wg sync.WaitGroup
	for w := range uint64(workers) {
		wg.Go(func() {
			for p := w; p < pages; p += workers { // neighbours share words
				s.add(p)
			}
		})
	}
	wg.Wait()
	for p := range uint64(pages) {
		if !s.has(p) {
			t.Fatalf("pfn %#x was lost", p)
		}
	}
}
