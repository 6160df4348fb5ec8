//go:build xen

package xl

import (
	"sync"
	"sync/atomic"
)

// A superpage is 2 MiB of guest memory in one piece: 512 pages from a pfn that
// is a multiple of 512. One entry of the second-stage page tables covers it,
// so that the guest runs with fewer TLB misses, and one extent instead of 512
// is asked for.
const (
	superOrder = 9
	superPages = 1 << superOrder
)

// superpages knows which superpages of a guest have been tried, and which of
// their pages the source has not sent yet: those were populated ahead. Several
// goroutines may use it at once.
type superpages struct {
	ahead *pageSet
	tried *pageSet // superpage numbers, as pfns
	locks [64]sync.Mutex
	// use is held for reading while a batch takes its pages, and for writing
	// while those that no batch has taken are given back.
	use  sync.RWMutex
	off  atomic.Bool   // memory is short: no more of them
	made atomic.Uint64 // how many there are
}

func newSuperpages(pages uint64) *superpages {
	return &superpages{ahead: newPageSet(pages), tried: newPageSet(pages/superPages + 1)}
}

// lock returns the locked lock of the superpage that pfn is in. It is taken
// once for a batch, not for a page.
func (s *superpages) lock(pfn uint64) *sync.Mutex {
	mu := &s.locks[pfn/superPages%uint64(len(s.locks))]
	mu.Lock()
	return mu
}

// worthwhile tells whether pfns, ascending, ask for a new superpage: they must
// begin at one half of it and cover that half. The other half is expected in
// another batch. Each superpage is tried once. The caller holds its lock.
func (s *superpages) worthwhile(pfns []uint64, limit uint64) bool {
	const half = superPages / 2
	if s.off.Load() || len(pfns) < half || pfns[0]%half != 0 || pfns[half-1] != pfns[0]+half-1 {
		return false
	}
	n := pfns[0] / superPages
	return (n+1)*superPages <= limit && !s.tried.has(n)
}
