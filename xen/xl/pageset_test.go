package xl

import (
	"slices"
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

func TestPageSetRemove(t *testing.T) {
	s := newPageSet(3 * chunkPages)
	s.addRange(chunkPages-2, 4)
	if !s.remove(chunkPages) || s.remove(chunkPages) || s.remove(2*chunkPages) || s.remove(1<<40) {
		t.Error("remove does not tell whether the pfn was there")
	}
	if got, want := s.all(), []uint64{chunkPages - 2, chunkPages - 1, chunkPages + 1}; !slices.Equal(got, want) {
		t.Errorf("%#x are left, want %#x", got, want)
	}
}
