package xen

import "sync"

// lookahead looks for pages among pfns that probably have none, while the link
// has no time for more pages: a small guest has a million such pfns below 4 GiB,
// and Xen takes its time for each. It is what the next round would do, only sooner:
// what has no page now has none until the guest grows, and then all is sent again
// (sizeWatch).
type lookahead struct {
	mu    sync.Mutex
	dom   Domain
	rest  Bitmap // those that have a page, and those that were not looked at
	cur   cursor // of rest
	batch *Batch
}

func newLookahead(dom Domain, rest Bitmap) *lookahead {
	return &lookahead{dom: dom, rest: rest, cur: cursor{bm: rest, pages: dom.Pages(), most: BatchPages}, batch: NewBatch()}
}

// look looks at some pfns. It tells whether it did, rather than that there are
// none left, or that another goroutine is at it.
func (a *lookahead) look() bool {
	if a == nil || !a.mu.TryLock() {
		return false
	}
	defer a.mu.Unlock()
	b := a.batch
	if !a.cur.fill(b) || a.dom.Map(b) != nil { // the round that comes to them says why
		return false
	}
	for i, pfn := range b.PFNs {
		if !b.Types[i].Populated() {
			a.rest.Clear(pfn)
		}
	}
	return a.dom.Unmap(b) == nil
}
